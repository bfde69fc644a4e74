"""The program that scores, in COMET's own environment with a tiny model of random weights."""

from __future__ import annotations

import json
import subprocess

import pytest

from speechmapper.eval.comet import CHECKPOINT, WORKER
from speechmapper.eval.comet_environment import clean_environment
from tests.speechmapper.eval.comet_environments import real_environment, real_model

SEGMENTS = [
    {"src": "the dog slept", "mt": "der Hund schlief", "ref": "der Hund schlief"},
    {"src": "rain", "mt": "", "ref": "Regen"},
    {"src": "a house", "mt": "a house in the rain by the river", "ref": "ein Haus"},
]


@pytest.fixture(scope="module")
def environment():
    return real_environment()


@pytest.fixture(scope="module")
def model(environment, tmp_path_factory):
    return real_model(tmp_path_factory.mktemp("comet") / "model", environment)


def scores(environment, model, segments) -> list[float]:
    done = subprocess.run(
        [environment / "bin" / "python", "-I", WORKER, model / CHECKPOINT, "2", "0"],
        input="".join(json.dumps(segment) + "\n" for segment in segments),
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    head, *lines = map(json.loads, done.stdout.splitlines())
    assert head["versions"]["unbabel-comet"] == "2.2.7" and "transformers" in head["versions"]
    return [line["score"] for line in lines]


def test_each_segment_has_its_own_score_in_its_place(environment, model):
    together = scores(environment, model, SEGMENTS)
    assert len(set(together)) == 3
    assert scores(environment, model, SEGMENTS[::-1]) == pytest.approx(together[::-1], abs=1e-5)
