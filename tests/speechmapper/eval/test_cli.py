"""`sm-eval` as typed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sm_store.errors import ConfigError
from speechmapper.eval.cli import app as eval_app
from speechmapper.eval.predictions import write_predictions


def test_plain_output_names_the_figures(world, stage1_run, tmp_path):
    result = CliRunner().invoke(
        eval_app, ["asr", str(stage1_run), "--store", str(world.path), "--out", str(tmp_path)], catch_exceptions=False
    )
    assert "wer" in result.stdout and "nearest-token" in result.stdout


def test_score_prints_the_metrics_alone_as_json(tmp_path):
    write_predictions(tmp_path, [{"reference": "a b", "output": "a c"}], {"task": "asr", "readout": "nearest-token"})
    result = CliRunner().invoke(eval_app, ["score", str(tmp_path), "--json"], catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout)["wer"] == 0.5


def test_score_takes_fields_to_divide_by(tmp_path):
    lines = [{"reference": "a b", "output": "a c", "lang": lang, "corpus": "x"} for lang in ("de", "en")]
    write_predictions(tmp_path, lines, {"task": "asr"})
    words = ["score", str(tmp_path), "--json", "--by", "lang,corpus"]
    found = json.loads(CliRunner().invoke(eval_app, words, catch_exceptions=False).stdout)["by"]
    assert (found["lang"]["de"]["wer"], found["corpus"]["x"]["utterances"]) == (0.5, 2)


def test_score_takes_entities_and_the_store_of_the_training(world, tmp_path):
    write_predictions(tmp_path / "out", [{"reference": "He met Anna.", "output": "he met hannah"}], {"task": "asr"})
    tagged = tmp_path / "tagged.iob"
    tagged.write_text("He\tO\nmet\tO\nAnna\tB-PERSON\n.\tO\n", encoding="utf-8")
    words = ["score", str(tmp_path / "out"), "--json", "--entities", str(tagged), "--train-store", str(world.path)]
    found = json.loads(CliRunner().invoke(eval_app, words, catch_exceptions=False).stdout)
    assert (found["entity_source"], found["entities"]) == ("tagged.iob", {"0": {"words": 1, "recall": 0.0}})


def test_the_normaliser_is_an_option(world, stage1_run, tmp_path):
    spoken = ["asr", str(stage1_run), "--store", str(world.path), "--out", str(tmp_path), "--json"]
    for words in (spoken, ["score", str(tmp_path), "--json"]):
        for more, name in ([], "mms-1"), (["--normalizer", "whisper"], "whisper"):  # the world's store is of mms-1
            result = CliRunner().invoke(eval_app, [*words, *more], catch_exceptions=False)
            assert json.loads(result.stdout)["normalizer"] == name
    with pytest.raises(ConfigError, match="--normalizer upper: choose mms-2, whisper, none"):
        CliRunner().invoke(eval_app, [*spoken, "--normalizer", "upper"], catch_exceptions=False)


@pytest.mark.parametrize("words", ["asr RUN", "asr --out o", "score", "report", "eet --out o", "dance"])
def test_a_line_that_lacks_something_is_a_usage_error(words):
    assert CliRunner().invoke(eval_app, words.split()).exit_code == 2


def test_a_report_is_written_and_told(tmp_path):
    write_predictions(tmp_path / "run", [{"id": "u", "reference": "a b", "output": "a c"}], {"task": "asr"})
    CliRunner().invoke(eval_app, ["score", str(tmp_path / "run")], catch_exceptions=False)
    words = ["report", str(tmp_path / "run"), "--html", str(tmp_path / "r.html"), "--latex", str(tmp_path / "r.tex")]
    result = CliRunner().invoke(eval_app, words, catch_exceptions=False)
    assert result.stdout.splitlines() == [
        f"1 run, {(tmp_path / 'r.html').stat().st_size / 1e6:.2f} MB: {tmp_path / 'r.html'}",
        f"1 run, 0.00 MB: {tmp_path / 'r.tex'}",
    ]
    result = CliRunner().invoke(eval_app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["runs"][0]["wer"] == 0.5
    with pytest.raises(ConfigError, match="nothing to write"):
        CliRunner().invoke(eval_app, words[:2], catch_exceptions=False)
