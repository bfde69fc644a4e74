"""COMET beside the predictions: kept, used again, and never a number where it was not measured."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval import comet
from speechmapper.eval.comet import CometRequest, comet_request, comet_segments
from tests.speechmapper.eval.comet_environments import (
    false_environment,
    false_model,
    real_environment,
    real_model,
)

LINES = [
    {"id": "a", "source": "the dog", "output": "Hund", "reference": "der Hund"},
    {"id": "b", "source": "rain\u2028now", "output": "", "reference": "Regen"},
    {"id": "c", "source": "a house", "output": "a house", "reference": "ein Haus"},
    {"id": "d", "source": "the dog", "output": "Hund", "reference": "der Hund"},
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return false_environment(tmp_path_factory.mktemp("false") / "env")


@pytest.fixture
def request_of(environment, tmp_path):
    return lambda kind="scores": comet_request(str(false_model(tmp_path / kind, kind)), environment, gpu=False)


def not_measured(tmp_path, request, lines=LINES) -> str:
    scores, made_by = comet_segments(tmp_path, lines, request)
    assert scores is None and not (tmp_path / "comet.jsonl").exists()
    [text] = made_by.values()
    assert text.startswith("not measured: ") and "\n" not in text
    return text


def test_scores_and_what_made_them(request_of, tmp_path):
    scores, made_by = comet_segments(tmp_path, LINES, request_of())
    assert scores == [0.4, 0.0, 0.7, 0.4]
    assert made_by["comet_version"] == "9.1" and "model.ckpt#" in made_by["comet_model"]
    kept = [json.loads(line) for line in (tmp_path / "comet.jsonl").read_text().splitlines()]
    assert [(line["id"], line["score"]) for line in kept] == [("a", 0.4), ("b", 0.0), ("c", 0.7), ("d", 0.4)]


def test_only_what_changed_is_scored_again(request_of, tmp_path, monkeypatch):
    request, asked = request_of(), []
    measure = comet._computed
    monkeypatch.setattr(comet, "_computed", lambda at, lines, _: asked.append(len(lines)) or measure(at, lines, _))
    first, _ = comet_segments(tmp_path, LINES, request)
    assert comet_segments(tmp_path, LINES, request)[0] == first
    other = [*LINES[:2], {**LINES[2], "output": "ein Haus"}, LINES[3]]
    assert comet_segments(tmp_path, other, request)[0] == [0.4, 0.0, 0.8, 0.4]
    (tmp_path / "scores" / "checkpoints" / "model.ckpt").write_text("other")
    comet_segments(tmp_path, other, request)
    assert asked == [3, 1, 3]  # equal lines are scored once


def test_without_a_request_kept_scores_count_while_all_lines_have_one(request_of, tmp_path):
    assert comet_segments(tmp_path, LINES, None) == (None, {})
    scored = comet_segments(tmp_path, LINES, request_of())
    assert comet_segments(tmp_path, LINES, None) == scored
    assert comet_segments(tmp_path, LINES[:2], None)[1] == scored[1]
    changed = [{**LINES[0], "output": "Katze"}, *LINES[1:]]
    assert comet_segments(tmp_path, changed, None) == (None, {})
    old = [{name: value for name, value in line.items() if name != "source"} for line in LINES]
    assert comet_segments(tmp_path, old, None) == (None, {})


def test_a_program_that_fails_is_shown_and_named(request_of, tmp_path, capsys):
    reason = not_measured(tmp_path, request_of("fails"))
    assert "COMET failed (OSError: We couldn't connect to 'https://huggingface.co')" in reason
    shown = capsys.readouterr().err
    assert "| OSError: We couldn't" in shown and shown.endswith(f"comet: {reason}\n")


@pytest.mark.parametrize("kind", ["nan", "short"])
def test_no_score_is_made_up(request_of, tmp_path, kind):
    assert "no finite score for each of 3 segments" in not_measured(tmp_path, request_of(kind))


def test_other_output_is_refused():
    with pytest.raises(comet.RunFailed, match="something else than scores"):
        comet._parsed("hello\n", 1)


def test_it_takes_no_longer_than_its_limit(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(comet, "SECONDS", 1)
    monkeypatch.setattr(comet, "SECONDS_EACH", 0)
    start = time.monotonic()
    assert "no scores within 1 s" in not_measured(tmp_path, request_of("hangs"))
    assert time.monotonic() - start < 20


def test_lines_without_a_source_are_not_scored(request_of, tmp_path):
    lines = [{"id": "u7", "reference": "a", "output": "b"}]
    assert "no prediction has a `source`" in not_measured(tmp_path, request_of(), lines)


def test_the_source_of_a_translation_that_is_the_transcript(request_of, tmp_path, monkeypatch):
    lines = [*LINES, {"id": "e", "reference": "Oslo", "output": "Oslo"}]  # predictions leave out an equal source
    asked = []
    monkeypatch.setattr(comet, "_computed", lambda _, each, __: (asked.extend(each), ([0.5] * len(each), "1"))[1])
    assert len(comet_segments(tmp_path, lines, request_of())[0]) == len(lines)
    assert comet.source_of(asked[-1]) == "Oslo" and comet.source_of({"source": "", "reference": "a"}) == ""


def test_no_network(environment, tmp_path, monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    reason = not_measured(tmp_path, comet_request("Unbabel/wmt22-comet-da@main", environment, gpu=False))
    assert "--comet Unbabel/wmt22-comet-da: not in the local cache" in reason and "no route to host" in reason


def test_a_model_from_the_hub_is_named_by_its_commit(environment, tmp_path, monkeypatch):
    fetched = false_model(tmp_path / "3f9a")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or str(fetched))
    _, made_by = comet_segments(tmp_path, LINES, comet_request("Unbabel/wmt22-comet-da@main", environment, gpu=False))
    assert made_by["comet_model"] == "Unbabel/wmt22-comet-da@3f9a"
    [(arguments, options)] = asked
    assert arguments == ("Unbabel/wmt22-comet-da",) and options["revision"] == "main"
    shutil.rmtree(fetched / "checkpoints")
    assert (
        "has no checkpoints/model.ckpt" in comet_segments(tmp_path, LINES, CometRequest("a/b", environment))[1]["comet"]
    )


def test_wrong_flags_are_refused_before_anything_runs(environment, tmp_path):
    assert comet_request(None, None) is None
    for model, folder, message in (
        (None, environment, "goes with --comet"),
        (str(tmp_path / "absent"), None, "no such folder; use a Hub id"),
        (str(environment), None, "hparams.yaml and checkpoints/model.ckpt"),
        ("owner/model", tmp_path.parent, "no Python environment"),
    ):
        with pytest.raises(ConfigError, match=message):
            comet_request(model, folder, gpu=False)


def test_the_checkpoint_itself_may_be_named(environment, tmp_path):
    folder = false_model(tmp_path / "model")
    request = comet_request(str(folder / "checkpoints" / "model.ckpt"), environment, gpu=False)
    assert comet_segments(tmp_path, LINES, request)[1] == comet_segments(tmp_path, LINES, CometRequest(str(folder)))[1]


def test_a_python_that_does_not_start(tmp_path):
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").write_text("")
    request = comet_request(str(false_model(tmp_path / "model")), tmp_path / "env", gpu=False)
    assert "cannot be executed" in not_measured(tmp_path, request)


@pytest.fixture(scope="module")
def real():
    return real_environment()


def test_a_model_in_its_own_environment(real, tmp_path):
    model = real_model(tmp_path / "model", real)
    scores, made_by = comet_segments(tmp_path, LINES, comet_request(str(model), real, gpu=False))
    assert made_by["comet_version"] == "2.2.7"
    assert scores[0] == scores[3] and len(set(scores)) == 3


@pytest.mark.parametrize(
    ("more", "reason"), [("missing", "estimator.ff.0.weight"), ("code", "set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1")]
)
def test_a_checkpoint_that_lacks_weights_or_holds_code(real, tmp_path, more, reason):
    model = real_model(tmp_path / "model", real, more)
    assert reason in not_measured(tmp_path, comet_request(str(model), real, gpu=False))


def test_a_trusted_checkpoint_is_loaded_with_its_code(real, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    request = comet_request(str(real_model(tmp_path / "model", real, "code")), real, gpu=False)
    assert len(comet_segments(tmp_path, LINES, request)[0]) == len(LINES)
