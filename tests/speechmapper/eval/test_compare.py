"""Paired bootstrap of two evaluations, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from typer.testing import CliRunner

from sm_store.errors import ConfigError
from speechmapper.eval.cli import app as eval_app
from speechmapper.eval.comet import COMET_FILE, text_sha256
from speechmapper.eval.compare import compare, paired
from speechmapper.eval.predictions import read_predictions, write_predictions

WORDS = ["the", "dog", "slept", "by", "river", "all", "night", "and", "nobody", "knew", "where"]


def outputs(seed: int, wrong: float, count: int = 150) -> tuple[list[str], list[str]]:
    """References, and outputs of which some words are others."""
    said = np.random.default_rng(1).integers(len(WORDS), size=(count, 10))
    rng = np.random.default_rng(seed)
    found = np.where(rng.random(said.shape) < wrong, rng.integers(len(WORDS), size=said.shape), said)
    return tuple([" ".join(WORDS[word] for word in row) for row in rows] for rows in (said, found))


def write(folder, seed: int, wrong: float, task: str = "asr", **more: object):
    lines = [
        {"id": str(number), "reference": reference, "output": output, **more}
        for number, (reference, output) in enumerate(zip(*outputs(seed, wrong), strict=True))
    ]
    write_predictions(folder, lines, {"task": task})
    return folder


def test_a_clear_difference_and_none(tmp_path):
    first, worse, alike = (write(tmp_path / str(seed), seed, wrong) for seed, wrong in ((2, 0.1), (3, 0.3), (4, 0.1)))
    found = compare(first, worse)["metrics"]["wer"]
    assert found["difference"] == found["second"] - found["first"] > 0.1
    assert found["ci95"][0] < found["difference"] < found["ci95"][1]
    assert found["p"] == 1 / 1001
    found = compare(first, alike)["metrics"]["wer"]
    assert found["p"] > 0.05 and found["ci95"][0] < 0 < found["ci95"][1]
    same = compare(first, first)["metrics"]["wer"]
    assert (same["difference"], same["ci95"], same["p"]) == (0, [0, 0], 1)
    assert compare(worse, first) == compare(worse, first)  # seeded


def test_the_p_value_counts_two_sides_where_sacrebleu_counts_one(tmp_path):
    first, second = write(tmp_path / "a", 2, 0.20, "st"), write(tmp_path / "b", 3, 0.22, "st")
    found = compare(first, second)["metrics"]["bleu"]
    (references, one), (_, two) = outputs(2, 0.20), outputs(3, 0.22)
    test = PairedTest([("a", one), ("b", two)], {"bleu": BLEU()}, [references], test_type="bs", n_samples=1000)
    _, scores = test()
    assert found["first"] == pytest.approx(scores["BLEU"][0].score)
    assert found["second"] == pytest.approx(scores["BLEU"][1].score)
    assert found["p"] / 2 == pytest.approx(scores["BLEU"][1].p_value, abs=0.03)


def keep_comet(folder, score: float, model: str = "m"):
    lines, _ = read_predictions(folder)
    kept = [{"model": model, "version": "2", "sha256": text_sha256(line), "score": score} for line in lines]
    (folder / COMET_FILE).write_text("".join(json.dumps(each) + "\n" for each in kept), encoding="utf-8")


def test_comet_is_compared_by_segment_scores_of_one_model(tmp_path):
    first, second = (write(tmp_path / name, 2, 0.1, "st", source="the dog") for name in "ab")
    assert "comet" not in compare(first, second)["metrics"]
    keep_comet(first, 0.8)
    assert "comet" not in compare(first, second)["metrics"]
    keep_comet(second, 0.9)
    assert compare(first, second)["metrics"]["comet"]["difference"] == pytest.approx(10)
    keep_comet(second, 0.9, "another")
    assert "comet" not in compare(first, second)["metrics"]


def test_what_is_not_measured_has_no_difference():
    nothing = paired(None, 0.1, np.full(3, np.nan), np.zeros(3))
    assert (nothing["difference"], nothing["ci95"], nothing["p"]) == (None, None, None)


def test_other_utterances_references_tasks_and_normalisers_are_refused(tmp_path):
    line = {"id": "1", "reference": "a b", "output": "a b"}
    write_predictions(tmp_path / "first", [line, {**line, "id": "2"}], {"task": "asr"})
    old = {"task": "asr", "run": {"target": {"normalizer": "mms-1"}}}
    for lines, about, message in (
        ([line, {**line, "id": "3"}], {}, "line 2: id '2' and '3'"),
        ([{**line, "reference": "a c"}], {}, "line 1: reference 'a b' and 'a c'"),
        ([line], {}, "2 and 1 predictions"),
        ([line], {"task": "sqa"}, "different tasks, asr and sqa"),
        ([line, {**line, "id": "2"}], old, "different text normalisers, mms-2 and mms-1; name one with --normalizer"),
    ):
        write_predictions(tmp_path / "second", lines, about)
        with pytest.raises(ConfigError, match=message):
            compare(tmp_path / "first", tmp_path / "second")
    assert compare(tmp_path / "first", tmp_path / "second", "mms-2")["normalizer"] == "mms-2"


def test_the_command_prints_a_table_or_json(tmp_path):
    words = ["compare", str(write(tmp_path / "a", 2, 0.1)), str(write(tmp_path / "b", 3, 0.3))]
    shown = CliRunner().invoke(eval_app, words, catch_exceptions=False).stdout
    assert "wer" in shown and "difference" in shown
    printed = json.loads(CliRunner().invoke(eval_app, [*words, "--json"], catch_exceptions=False).stdout)
    assert printed == compare(tmp_path / "a", tmp_path / "b")
