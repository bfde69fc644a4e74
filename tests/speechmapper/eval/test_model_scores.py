"""COMET and judges together: what is refused before anything is predicted, and where their numbers go."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from sm_store.errors import ConfigError, ModelError
from speechmapper.eval.cli import app as eval_app
from speechmapper.eval.model_scores import ModelScored, ModelScores, requested_scores
from speechmapper.eval.predictions import write_predictions
from speechmapper.tasks import ASR, TASKS
from tests.speechmapper.eval.comet_environments import false_environment, false_model
from tests.speechmapper.eval.judging import LINES, save_judge
from tests.speechmapper.tiny import make_world

TRANSLATED = [
    {"id": "a", "source": "the dog", "output": "Hund", "reference": "der Hund", "language": "de"},
    {"id": "a", "source": "the dog", "output": "le chien", "reference": "le chien", "language": "fr"},
]


def sm_eval(*words: object) -> dict:
    result = CliRunner().invoke(eval_app, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_comet_is_scored_by_language_and_stays_when_scored_again(tmp_path):
    write_predictions(tmp_path, TRANSLATED, {"task": "st"})
    environment, model = false_environment(tmp_path / "env"), false_model(tmp_path / "model")
    metrics = sm_eval("score", tmp_path, "--comet", model, "--comet-env", environment, "--device", "cpu")
    assert metrics["comet"] == pytest.approx(60) and metrics["comet_version"] == "9.1"
    assert [metrics["by_language"][name]["comet"] for name in ("de", "fr")] == pytest.approx([40, 80])
    assert sm_eval("score", tmp_path) == metrics


def test_an_untranslated_copy_counts_as_nothing_on_target(tmp_path):
    source, right = (
        "The old dog sleeps in the green house by the river.",
        "Der alte Hund schläft im grünen Haus am Fluss.",
    )
    line = {"source": source, "reference": right, "language": "de", "lang": "en"}
    write_predictions(
        tmp_path, [{**line, "id": "a", "output": right}, {**line, "id": "b", "output": source}], {"task": "st"}
    )
    environment, model = false_environment(tmp_path / "env"), false_model(tmp_path / "model")
    metrics = sm_eval("score", tmp_path, "--comet", model, "--comet-env", environment, "--device", "cpu")
    scores = [10 * len(text) for text in (right, source)]
    assert metrics["comet"] == pytest.approx(sum(scores) / 2)
    assert metrics["comet_on_target"] == pytest.approx(scores[0] / 2) and metrics["target_language_rate"] == 0.5
    names = list(metrics)
    assert names.index("comet_on_target") < names.index("target_language_rate")  # printed beside each other


def test_comet_that_failed_is_no_number_and_leaves_the_rest(tmp_path, capfd):
    write_predictions(tmp_path, TRANSLATED, {"task": "st"})
    environment, model = false_environment(tmp_path / "env"), false_model(tmp_path / "model", "fails")
    metrics = sm_eval("score", tmp_path, "--comet", model, "--comet-env", environment, "--device", "cpu")
    assert metrics["comet"].startswith("not measured: COMET failed (OSError") and metrics["chrf"] > 0
    assert "comet" not in sm_eval("score", tmp_path)


def test_judges_from_the_command_line(tmp_path):
    write_predictions(tmp_path, LINES, {"task": "sqa"})
    judges = [save_judge(tmp_path / name, seed) for seed, name in enumerate("ab")]
    metrics = sm_eval("score", tmp_path, *(word for judge in judges for word in ("--judge", judge)), "--device", "cpu")
    assert set(metrics["judges"]) == set(map(str, judges)) and "judge_accuracy_sd" in metrics
    assert metrics["judge_accuracy"] == pytest.approx(sum(each["accuracy"] for each in metrics["judges"].values()) / 2)
    low, high = metrics["judge_accuracy_ci95"]
    assert low <= metrics["judge_accuracy"] <= high
    assert metrics["exact_match"] == 0.25 and sm_eval("score", tmp_path) == metrics


def test_an_evaluation_is_judged_by_its_questions(tmp_path, stage1_run):
    world = make_world(tmp_path / "world", utterances=8, question="who slept", answer="the dog")
    judge = save_judge(tmp_path / "judge")
    words = ("sqa", stage1_run, "--store", world.path, "--llm", world.llm_folder, "--max-new-tokens", 2)
    metrics = sm_eval(*words, "--split", "train", "--out", tmp_path / "out", "--judge", judge, "--device", "cpu")
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert {line["question"] for line in lines} == {"who slept"}
    assert metrics["judges"][str(judge)]["shuffled"] is None  # all references are the same


def test_what_does_not_fit_the_task_is_refused():
    for models, task, message in (
        (requested_scores("owner/model", None, None, "cpu"), ASR, "--comet owner/model: asr asks for no translation"),
        (requested_scores(None, None, ["smollm2-135m"]), TASKS["st"], "--judge smollm2-135m: st asks no question"),
    ):
        with pytest.raises(ConfigError, match=message):
            models.require(task)
    requested_scores("owner/model", None, None, "cpu").require(TASKS["st"])
    with pytest.raises(ModelError, match="--judge nobody: no such preset or folder"):
        requested_scores(None, None, ["nobody"]).require(TASKS["sqa"])
    with pytest.raises(ConfigError, match="--judge a/b: named twice"):
        requested_scores(None, None, ["a/b", "c/d", "a/b"])
    assert requested_scores(None, None, None) == ModelScores()


def test_means_intervals_and_parts():
    scored = ModelScored([0.5, 0.7, 0.6], {"a": [0.9, 0.2, 0.6], "b": [0.9, 0.1, 0.5]}, np.array([False, True, False]))
    found = scored.figures()
    assert found == {
        "comet": pytest.approx(60),
        "comet_on_target": pytest.approx(110 / 3),  # the second output counts as 0
        "judge_accuracy": pytest.approx(0.5),
        "judge_accuracy_sd": pytest.approx((1 / 3) / 2**0.5),
    }
    part = scored.figures(np.array([0, 1]))
    assert (part["comet"], part["judge_accuracy"], part["judge_accuracy_sd"]) == (pytest.approx(60), 0.5, 0.0)
    assert set(scored.intervals(np.arange(3))) == {"comet_ci95", "comet_on_target_ci95", "judge_accuracy_ci95"}
    assert scored.figures(np.arange(0))["comet"] is None


def test_lines_that_no_model_scored_have_no_metrics():
    assert ModelScored().figures() == {} and ModelScored().intervals(np.arange(3)) == {}
    assert set(ModelScored([0.5]).figures()) == {"comet"}
    assert ModelScored(None, {"a": [0.5]}).figures() == {"judge_accuracy": 0.0}
