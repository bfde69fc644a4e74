"""Questions of an evaluation: one wording, several, and those that training never draws."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.eval.questions import ALL, Question, parse_wordings, questions, with_held_out
from speechmapper.eval.score import evaluate
from speechmapper.tasks import ASR, Item

SEEN = list(ASR.wordings.lines("any"))
UNSEEN = list(ASR.wordings.held_out_lines("any"))


def test_every_wording_is_asked_and_then_those_held_out():
    asked = questions(ASR, Item(), ALL)
    assert [each.instruction(ASR).text for each in asked] == [*SEEN, *UNSEEN]
    assert [each.labels() for each in asked] == [
        *({"wording": number} for number in range(len(SEEN))),
        *({"wording": len(SEEN) + number, "held_out": True} for number in range(len(UNSEEN))),
    ]
    assert questions(ASR, Item(), 2) == asked[:2]
    (one,) = questions(ASR, Item(), None)
    assert (one.labels(), one.instruction(ASR)) == ({}, ASR.instruction(Item()))


def test_held_out_wordings_are_those_that_the_run_was_not_trained_with():
    trained = ASR.as_trained({"tasks": {"asr": {"system": "a", "wordings": {"any": ["b", UNSEEN[0]]}}}})
    asked = questions(with_held_out(trained, ASR), Item(), ALL)
    assert [each.instruction(with_held_out(trained, ASR)).text for each in asked] == ["b", UNSEEN[0], *UNSEEN[1:]]
    assert with_held_out(ASR, ASR) is ASR


def test_the_spread_over_wordings_is_measured(world, stage2_run, tmp_path):
    llm = str(world.llm_folder)
    request = PredictRequest(stage2_run, tmp_path / "all", world.path, llm=llm, max_new_tokens=4, wordings=ALL)
    metrics = evaluate(request)
    lines = [json.loads(line) for line in (tmp_path / "all" / "predictions.jsonl").read_text().splitlines()]
    count, wordings = len(world.store.select(split="test")), len(SEEN) + len(UNSEEN)
    assert [line["wording"] for line in lines] == list(range(wordings)) * count
    assert len({line["prompt"] for line in lines}) > 2  # the tiny tokenizer knows few words
    assert metrics["wordings"]["wer"]["min"] <= metrics["wordings"]["wer"]["mean"] <= metrics["wordings"]["wer"]["max"]
    assert metrics["wordings_asked"] == "all"
    plain = predict(dataclasses.replace(request, out=tmp_path / "one", wordings=None))
    assert [line["output"] for line in plain] == [line["output"] for line in lines if line["wording"] == 0]
    assert predict(request) == lines


def test_bad_numbers_of_wordings_are_named(world, stage2_run, tmp_path):
    assert (parse_wordings(None), parse_wordings("all"), parse_wordings("3")) == (None, ALL, 3)
    for text in ("0", "-1", "some", ""):
        with pytest.raises(ConfigError, match=r"--wordings .*: give a number of at least 1, or all"):
            parse_wordings(text)
    with pytest.raises(ConfigError, match="--wordings: without an LLM"):
        PredictRequest(stage2_run, tmp_path, world.path, wordings=2)
    assert Question(Item()).labels() == {}
