"""From audio to text with one object: the same as going through a store, and strict about what it is given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.extraction.extract import extract
from sm_store import Store
from sm_store.errors import ConfigError, IdentityMismatch, InputError, ModelError, RunFailed
from speechmapper import SpeechMapper
from speechmapper.audio_features import load_listening, load_wave
from speechmapper.cli import app
from speechmapper.config import Stage1Config, Stage2Config
from speechmapper.config_file import load_config
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.saved_projector import load_projector
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from tests import speech
from tests.speechmapper.tiny import SMALL_MODEL, quiet_run, save_llm


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Audio, a store extracted from it, and a run of each stage (one step: what is said does not matter)."""
    folder = tmp_path_factory.mktemp("chain")
    llm = save_llm(folder / "llm")
    manifest = speech.write_corpus(folder / "corpus", utterances=4)
    store = folder / "store"
    extract(
        ExtractConfig(manifest, store, encoder="tiny-seamless", targets=TargetConfig(str(llm)), device="cpu", workers=1)
    )
    small = {"schedule": {"steps": 1, "warmup": 0}, "run": quiet_run(), "data": {"micro_batches": 1}}
    one = load_config("stage1", Stage1Config, [("tests", {**small, "model": SMALL_MODEL})])
    two = load_config("stage2", Stage2Config, [("tests", small)])
    train_stage1(Stage1Request(store, folder / "stage1", one))
    train_stage2(Stage2Request(store, folder / "stage1", str(llm), folder / "stage2", two))
    return folder


def audio_of(chain) -> dict[str, str]:
    """Path of each utterance by id."""
    lines = map(json.loads, (chain / "corpus" / "manifest.jsonl").read_text().splitlines())
    return {line["id"]: str(chain / "corpus" / line["audio"]) for line in lines}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_transcribing_audio_equals_reading_the_store(chain, tmp_path, stage):
    llm = str(chain / "llm") if stage == "stage2" else None
    lines = [
        line
        for split in ("train", "dev", "test")
        for line in predict(PredictRequest(chain / stage, tmp_path / split, chain / "store", llm=llm, split=split))
    ]
    mapper = SpeechMapper.from_pretrained(chain / stage, device="cpu")
    audio = audio_of(chain)
    assert len(lines) == 4
    for line in lines:
        assert mapper.transcribe(audio[line["id"]]) == line["output"]


def test_a_manifest_is_evaluated_as_the_store_made_from_it(chain, tmp_path):
    manifest = chain / "corpus" / "manifest.jsonl"
    for split in ("train", "test"):
        heard = predict(PredictRequest(chain / "stage1", tmp_path / "a", manifest=manifest, split=split, device="cpu"))
        read = predict(PredictRequest(chain / "stage1", tmp_path / "b", chain / "store", split=split))
        assert [line["id"] for line in heard] == [line["id"] for line in read]
        assert [line["output"] for line in heard] == [line["output"] for line in read]


def test_broken_audio_of_a_manifest_is_counted_and_all_broken_is_a_failure(chain, tmp_path):
    for file in (chain / "corpus" / "audio").iterdir():
        (tmp_path / "audio").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "audio")
    shutil.copy(chain / "corpus" / "manifest.jsonl", tmp_path)
    request = PredictRequest(chain / "stage1", tmp_path / "out", manifest=tmp_path / "manifest.jsonl", split="train")
    broken, whole = [path for id_, path in audio_of(chain).items() if id_ in ("u0", "u1")]
    (tmp_path / "audio" / Path(broken).name).write_bytes(b"RIFF....WAVEnothing")
    assert [line["id"] for line in predict(request)] == ["u1"]
    assert json.loads((tmp_path / "out" / "about.json").read_text())["rejected"] == 1
    (tmp_path / "audio" / Path(whole).name).unlink()
    with pytest.raises(RunFailed, match="no audio of its 2 utterances"):
        predict(request)


def test_store_and_manifest_exclude_each_other(chain, tmp_path):
    for both in ({}, {"store": chain / "store", "manifest": chain / "corpus" / "manifest.jsonl"}):
        with pytest.raises(ConfigError, match="give one of the two"):
            predict(PredictRequest(chain / "stage1", tmp_path, **both))


def test_features_are_those_of_the_store(chain):
    store, audio = Store.open(chain / "store"), audio_of(chain)
    listening = load_listening(load_projector(chain / "stage1").config.trained_for, None, "cpu")
    for index in range(len(store)):
        record = store[index]
        features, lengths = listening.features([load_wave(audio[record.id])])
        assert lengths.tolist() == [len(record.features)]
        assert np.allclose(features[0].numpy(), record.features, atol=2e-3)


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
    first, second = list(audio_of(chain).values())[:2]
    flags = ["--model", str(chain / "stage1"), "--device", "cpu"]
    one = CliRunner().invoke(app, ["transcribe", first, *flags], catch_exceptions=False)
    both = CliRunner().invoke(app, ["transcribe", first, second, *flags, "--json"], catch_exceptions=False)
    texts = json.loads(both.stdout)
    assert list(texts) == [first, second]
    assert one.stdout.strip() == texts[first]
