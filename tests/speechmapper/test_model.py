"""From audio to text with one object: the same as going through a store, and strict about what it is given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from sm_store.errors import IdentityMismatch, InputError, ModelError
from speechmapper import SpeechMapper
from speechmapper.cli import app
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.saved_projector import load_projector
from tests import speech


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_transcribing_audio_equals_reading_the_store(chain, tmp_path, stage):
    llm = str(chain / "llm") if stage == "stage2" else None
    lines = [
        line
        for split in ("train", "dev", "test")
        for line in predict(PredictRequest(chain / stage, tmp_path / split, chain / "store", llm=llm, split=split))
    ]
    mapper = SpeechMapper.from_pretrained(chain / stage, device="cpu")
    audio = speech.audio_paths(chain / "corpus" / "manifest.jsonl")
    assert len(lines) == 4
    for line in lines:
        assert mapper.transcribe(audio[line["id"]]) == line["output"]


def test_samples_are_taken_as_well_as_files(chain):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    samples = speech.tone(1.5)
    assert mapper.transcribe(samples) == mapper.transcribe(samples.astype(np.float64))
    assert mapper.transcribe_batch([samples, speech.tone(2.0, seed=3)])[0] == mapper.transcribe(samples)


@pytest.mark.parametrize(
    "samples", [np.zeros(100, np.float32), np.zeros((2, 16_000), np.float32), np.full(16_000, np.nan, np.float32)]
)
def test_samples_that_cannot_be_used(chain, samples):
    with pytest.raises(InputError):
        SpeechMapper.from_pretrained(chain / "stage1", device="cpu").transcribe(samples)


def test_files_that_cannot_be_used_are_named(chain, tmp_path):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    (tmp_path / "page.wav").write_text("<html>")
    for name in ("page.wav", "missing.wav"):
        with pytest.raises(InputError, match=name):
            mapper.transcribe(tmp_path / name)


def test_another_encoder_is_refused(chain, tmp_path):
    folder = tmp_path / "projector"
    load_projector(chain / "stage1").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["trained_for"]["encoder"]["weights_sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(IdentityMismatch, match="weights_sha256"):
        SpeechMapper.from_pretrained(folder, device="cpu")
    del config["trained_for"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="trained_for"):
        SpeechMapper.from_pretrained(folder, device="cpu")


def test_the_command_prints_text_or_json(chain):
    first, second = list(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values())[:2]
    flags = ["--model", str(chain / "stage1"), "--device", "cpu"]
    one = CliRunner().invoke(app, ["transcribe", first, *flags], catch_exceptions=False)
    both = CliRunner().invoke(app, ["transcribe", first, second, *flags, "--json"], catch_exceptions=False)
    texts = json.loads(both.stdout)
    assert list(texts) == [first, second]
    assert one.stdout.strip() == texts[first]
