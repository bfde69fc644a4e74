"""Metrics from predictions alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.predictions import write_predictions
from speechmapper.eval.score import embedding_error, score

LINES = [
    {"reference": "a b c", "output": "a b c", "relative_mse": 0.2, "positions": 4},
    {"reference": "a", "output": "b", "relative_mse": 0.5, "positions": 2},
    {"reference": "b", "output": "b", "relative_mse": None, "positions": 0},
]


def test_relative_mse_is_weighted_by_positions():
    assert embedding_error(LINES) == {"relative_mse": pytest.approx((0.2 * 4 + 0.5 * 2) / 6)}
    assert embedding_error([{"reference": "a", "output": "a"}]) == {}


def test_the_task_scores_and_what_made_them_follows(tmp_path):
    write_predictions(tmp_path, LINES, {"task": "asr", "split": "test"})
    found = score(tmp_path)
    assert found == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found["wer"] == pytest.approx(1 / 5)
    assert found["relative_mse"] == pytest.approx(0.3)
    assert (found["task"], found["split"]) == ("asr", "test")
    write_predictions(tmp_path, LINES, {"task": "sqa"})
    assert score(tmp_path)["exact_match"] == pytest.approx(2 / 3)


def test_the_normaliser_is_that_of_the_run_unless_another_is_named(tmp_path):
    lines = [{"reference": "It's five.", "output": "it s five", "lang": "en"}]
    write_predictions(tmp_path, lines, {"task": "asr", "run": {"target": {"normalizer": "mms-1"}}})
    assert (score(tmp_path)["wer"], score(tmp_path)["normalizer"]) == (0.0, "mms-1")
    found = score(tmp_path, "mms-2")
    assert (found["wer"], found["normalizer"]) == (1.0, "mms-2")
    assert score(tmp_path, "whisper")["normalizer"] == "whisper"
    write_predictions(tmp_path, lines, {"task": "asr", "run": {}})
    assert score(tmp_path)["normalizer"] == "mms-2"
    with pytest.raises(ConfigError, match="--normalizer upper: choose"):
        score(tmp_path, "upper")


def test_an_unknown_task_is_refused(tmp_path):
    write_predictions(tmp_path, LINES, {"task": "dance"})
    with pytest.raises(ConfigError, match=r"about\.json: unknown task 'dance'"):
        score(tmp_path)
    write_predictions(tmp_path, LINES, {"task": ["asr"]})
    with pytest.raises(ConfigError, match=r"about\.json: unknown task"):
        score(tmp_path)


def test_no_torch_is_needed():
    code = "import sys, speechmapper.eval.score; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_intervals_shares_and_parts_are_beside_the_rates(tmp_path):
    lines = [{**line, "speaker": name} for line, name in zip(LINES * 20, ["ann", "bob"] * 30, strict=True)]
    write_predictions(tmp_path, lines, {"task": "asr"})
    found = score(tmp_path, by=("speaker",))
    low, high = found["wer_ci95"]
    assert found["wer"] == pytest.approx(0.2) and low < 0.2 < high
    assert (found["substitutions"], found["deletions"], found["insertions"]) == (pytest.approx(0.2), 0, 0)
    assert found["by"]["speaker"].keys() == {"ann", "bob"}
    assert found["by"]["speaker"]["ann"]["utterances"] == 30
    assert found["by"]["speaker"]["ann"]["relative_mse"] == pytest.approx(0.3)
    assert score(tmp_path, by=("speaker",)) == found  # the draws are seeded
    with pytest.raises(ConfigError, match="--by 'dialect': no prediction has it"):
        score(tmp_path, by=("dialect",))


@pytest.mark.parametrize("task", ["asr", "st", "sqa"])
@pytest.mark.parametrize("odd", ["a\nb\nc", "a\u2028b\u0085c", "", '{"reference": "x"}', "\r\n"])
def test_an_odd_output_changes_no_other_line(tmp_path, task, odd):
    lines = [{"reference": "a b c", "output": "a b d", "lang": str(number)} for number in range(3)]
    write_predictions(tmp_path, lines, {"task": task})
    plain = score(tmp_path, by=("lang",))["by"]["lang"]
    write_predictions(tmp_path, [lines[0], {**lines[1], "output": odd}, lines[2]], {"task": task})
    found = score(tmp_path, by=("lang",))["by"]["lang"]
    assert (found["0"], found["2"]) == (plain["0"], plain["2"])


def test_several_wordings_have_a_spread(tmp_path):
    lines = [{**line, "wording": number % 2} for number, line in enumerate(LINES * 2)]
    write_predictions(tmp_path, lines, {"task": "asr"})
    assert score(tmp_path)["wordings"]["wer"]["max"] > 0
