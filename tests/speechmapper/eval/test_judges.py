"""Judgements: calibrated, kept by id, made again only where something changed."""

from __future__ import annotations

import json

import pytest

from sm_store.errors import ConfigError, ModelError
from speechmapper.eval import judge_llm, judges
from speechmapper.eval.judge_llm import Verdict
from speechmapper.eval.judges import (
    JudgeRequest,
    calibration,
    filled,
    judge_prompts,
    judgements,
    prompts_sha256,
)
from tests.speechmapper.eval.judging import LINES, save_judge


@pytest.fixture
def judge(tmp_path):
    """A judge by name: it finds an answer right where it is the correct one, to the letter."""
    return str(save_judge(tmp_path / "judge"))


class Exact:
    """A judge that knows: yes with 0.9 where the given answer is the correct one."""

    asked: list[int]

    def __init__(self, bias: float = 0.0) -> None:
        self.asked, self._bias = [], bias

    def verdicts(self, questions, _):
        self.asked.append(len(questions))
        found = []
        for system, user in questions:
            assert system == judge_prompts()["system"]
            _, correct, given, _ = user.split("\n")
            right = correct.removeprefix("Correct answer: ") == given.removeprefix("Given answer: ")
            found.append(Verdict((0.9 if right else 0.1) + self._bias, 0.8))
        return found


@pytest.fixture
def exact(monkeypatch):
    made = Exact()
    monkeypatch.setattr(judge_llm, "load_judge", lambda *_: made)
    return made


def test_accuracy_calibration_and_what_is_kept(exact, judge, tmp_path):
    judged, made_by = judgements(tmp_path, LINES, JudgeRequest((judge,)))
    assert judged == {judge: [0.9, 0.1, 0.1, 0.1]}
    found = made_by["judges"][judge]
    assert found == {"accuracy": 0.25, "gold": 1.0, "shuffled": 0.0, "empty": 0.0, "yes_or_no": pytest.approx(0.8)}
    assert made_by["judge_prompts"] == prompts_sha256()
    kept = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert [(line["id"], line["answer"]) for line in kept[:4]] == [(line["id"], "output") for line in LINES]
    assert {line["answer"] for line in kept} == {"output", "gold", "shuffled", "empty"}


def test_what_is_unchanged_is_not_judged_again(exact, judge, tmp_path):
    request = JudgeRequest((judge,))
    first = judgements(tmp_path, LINES, request)
    [count] = exact.asked
    assert count == 14  # 4 outputs and 4 of each kind of known answer; two of them are asked before
    assert judgements(tmp_path, LINES, request) == first
    assert judgements(tmp_path, LINES, None) == first
    changed = [{**LINES[0], "output": "a dog"}, *LINES[1:]]
    assert judgements(tmp_path, changed, None) == ({}, {})
    judgements(tmp_path, changed, request)
    assert exact.asked == [14, 1]


def test_other_weights_or_other_prompts_judge_anew(exact, judge, tmp_path, monkeypatch):
    request = JudgeRequest((judge,))
    judgements(tmp_path, LINES, request)
    save_judge(tmp_path / "judge", seed=1)
    judgements(tmp_path, LINES, request)
    monkeypatch.setattr(judges, "prompts_sha256", lambda: "other")
    judgements(tmp_path, LINES, request)
    assert exact.asked == [14, 14, 14]
    assert len(judgements(tmp_path, LINES, None)[1]["judges"]) == 1


def test_several_judges_are_calibrated_each_by_itself(judge, tmp_path, monkeypatch):
    second = str(save_judge(tmp_path / "second", seed=1))
    monkeypatch.setattr(judge_llm, "load_judge", lambda source, *_: Exact(0.45 * source.id.endswith("second")))
    _, made_by = judgements(tmp_path, LINES, JudgeRequest((judge, second)))
    assert [made_by["judges"][name]["accuracy"] for name in (judge, second)] == [0.25, 1.0]
    assert made_by["judges"][second]["shuffled"] == 1.0  # it says yes to everything, and the report shows it


def test_a_judge_joins_those_that_judged_before(exact, judge, tmp_path):
    second = str(save_judge(tmp_path / "second", seed=1))
    judgements(tmp_path, LINES, JudgeRequest((judge,)))
    assert list(judgements(tmp_path, LINES, JudgeRequest((second,)))[1]["judges"]) == [judge, second]


def test_a_line_without_a_question_is_named(exact, judge, tmp_path):
    lines = [LINES[0], {"id": "b", "reference": "a", "output": "b"}]
    with pytest.raises(ConfigError, match=r"predictions\.jsonl:2: no `question`.*sm-eval sqa"):
        judgements(tmp_path, lines, JudgeRequest((judge,)))
    (tmp_path / "judgements.jsonl").write_text("")
    assert judgements(tmp_path, lines, None) == ({}, {})
    with pytest.raises(ModelError, match="--judge nobody: no such preset or folder"):
        judgements(tmp_path, LINES, JudgeRequest(("nobody",)))


def test_texts_are_filled_in_as_they_are():
    asked = filled(LINES[1], "{reference} {x}")
    assert "Question: who {sang}\n" in asked and "Given answer: {reference} {x}\n" in asked
    assert "Correct answer: a bird\n" in asked and asked.endswith("Reply with yes or no.")


def test_the_prompts_are_frozen():
    assert prompts_sha256() == "3bade5e5ca9a"  # another wording does not compare with published figures


def test_calibration_is_of_known_worth():
    cases = {(case.kind, case.line): case.answer for case in calibration(LINES)}
    assert cases[("gold", 1)] == "a bird" and cases[("empty", 1)] == ""
    assert [cases[("shuffled", line)] for line in range(4)] == ["a bird", "red", "the dog", "the dog"]
    alike = [{"reference": "yes"}, {"reference": "Yes"}]
    assert {case.kind for case in calibration(alike)} == {"gold", "empty"}
    many = calibration([{"reference": str(number)} for number in range(1000)])
    assert len(many) == 600 and max(case.line for case in many) == 995
    assert calibration([]) == []


def test_a_real_judge_of_random_weights(judge, tmp_path):
    judged, made_by = judgements(tmp_path, LINES, JudgeRequest((judge,), "cpu"))
    assert all(0 < probability < 1 for probability in judged[judge])
    assert 0 < made_by["judges"][judge]["yes_or_no"] < 1
