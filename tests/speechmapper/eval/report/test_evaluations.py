"""Evaluation folders, good and bad."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.report.evaluations import interval, number, read_evaluations
from tests.speechmapper.eval.report.made import LINES, evaluation, write_evaluation


def test_folders_are_read_and_named(tmp_path):
    one = write_evaluation(tmp_path / "one" / "eval", about={"task": "st", "llm": "l"}, metrics={"bleu": 3.0})
    two = write_evaluation(tmp_path / "two" / "eval")
    runs = read_evaluations([str(one), f"tuned={two}"])
    assert [(run.name, run.path, run.task) for run in runs] == [("eval", one, "st"), ("tuned", two, "asr")]
    assert runs[0].metrics == {"bleu": 3.0} and runs[0].about == {"task": "st", "llm": "l"}
    assert list(runs[1].predictions) == LINES


def test_a_folder_with_a_sign_of_equality_in_its_name_is_a_folder(tmp_path):
    place = write_evaluation(tmp_path / "alpha=5")
    assert [run.name for run in read_evaluations([str(place)])] == ["alpha=5"]


def test_without_a_task_it_is_recognition():
    assert evaluation(about={}).task == "asr"


def test_what_is_no_evaluation_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty/predictions\.jsonl: no predictions there"):
        read_evaluations([str(tmp_path / "empty")])
    with pytest.raises(ConfigError, match="none/predictions"):
        read_evaluations([str(tmp_path / "none")])
    place = write_evaluation(tmp_path / "run")
    (place / "metrics.json").unlink()
    with pytest.raises(ConfigError, match=r"metrics\.json: not there; run `sm-eval score .*run` first"):
        read_evaluations([str(place)])
    for bad in ("{", "[1]", "[" * 100_000):
        (place / "metrics.json").write_text(bad)
        with pytest.raises(ConfigError, match=r"metrics\.json: .*run `sm-eval score .*run` again"):
            read_evaluations([str(place)])


def test_two_of_one_name_are_refused(tmp_path):
    one, two = (write_evaluation(tmp_path / name / "eval") for name in ("one", "two"))
    with pytest.raises(ConfigError, match=r"two evaluations named 'eval'; .*NAME=.*two/eval"):
        read_evaluations([str(one), str(two)])


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5], float("nan"), float("inf"), {}])
def test_only_finite_numbers_are_numbers(value):
    assert number({"wer": value}, "wer") is None
    assert interval({"wer_ci95": [0.1, value]}, "wer") is None
    assert interval({"wer_ci95": value}, "wer") is None


def test_numbers_and_intervals():
    assert number({"wer": 1}, "wer") == 1.0
    assert interval({"wer_ci95": [0.1, 0.2]}, "wer") == (0.1, 0.2)
    assert number({}, "wer") is None and interval({}, "wer") is None
