"""From audio to text with one object: the same as going through a store, and strict about what it is given."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from sm_store.errors import ConfigError, IdentityMismatch, InputError, ModelError
from speechmapper import SpeechMapper
from speechmapper.cli import app
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.llm import Answer
from speechmapper.llm_loading import load_llm
from speechmapper.readout.beam import BeamSearch
from speechmapper.saved_projector import load_projector
from speechmapper.tasks import ASR
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


def test_a_run_is_asked_in_the_wordings_it_was_trained_with(chain, monkeypatch):
    mapper = SpeechMapper.from_pretrained(chain / "stage2", device="cpu")
    assert mapper.projector.config.trained_for["tasks"]["asr"] == ASR.wordings.to_json()
    own = {"system": "a", "wordings": {"any": ["Say it again."]}}
    mapper.projector.config.trained_for["tasks"] = {"asr": own}
    said = []
    heard = replace(mapper._readout, answers=lambda _, asked: said.extend(asked) or [Answer("")])
    monkeypatch.setattr(mapper, "_readout", heard)
    mapper.transcribe(speech.tone(1.5))
    assert [(each.system, each.text) for each in said] == [("a", "Say it again.")]


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


@pytest.mark.xfail(strict=True, reason="known: without a voice detector, silence is read as text")
def test_where_there_is_no_speech_there_is_no_text(chain):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    assert mapper.transcribe(np.zeros(3 * 16_000, np.float32)) == ""


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
    twice = CliRunner().invoke(app, ["transcribe", first, first, *flags], catch_exceptions=False)
    both = CliRunner().invoke(app, ["transcribe", first, second, *flags, "--json"], catch_exceptions=False)
    texts = json.loads(both.stdout)
    assert list(texts) == [first, second]
    assert one.stdout.strip() == texts[first]
    assert twice.stdout == f"{first}\t{texts[first]}\n" * 2


def test_a_bad_file_does_not_take_the_texts_of_the_others(chain, tmp_path):
    good = next(iter(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values()))
    cut, short = tmp_path / "cut.flac", tmp_path / "short.wav"
    cut.write_bytes(b"fLaC" + b"\0" * 40)
    soundfile.write(short, np.zeros(800, np.float32), 16_000)
    arguments = ["transcribe", good, str(cut), str(short), "--model", str(chain / "stage1"), "--device", "cpu"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert shown.exit_code == 1
    assert [line.partition("\t")[0] for line in shown.stdout.splitlines()] == [good]
    errors = shown.stderr.splitlines()
    assert [line.startswith(f"error: {path}: ") for line, path in zip(errors, (cut, short), strict=True)] == [True] * 2
    assert all(line.count(path.name) == 1 for line, path in zip(errors, (cut, short), strict=True))
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert list(told) == [good, str(cut), str(short)] and told[str(cut)] is told[str(short)] is None


def test_files_are_checked_before_a_model_is_loaded(chain, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(SpeechMapper, "from_pretrained", load)
    long = tmp_path / "long.flac"
    soundfile.write(long, np.zeros(61 * 16_000, np.float32), 16_000)
    result = CliRunner().invoke(app, ["transcribe", str(long), "none.wav", "--model", str(chain / "stage1")])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"{long}: longer than 60 s; cut it into shorter files (and 1 more)"


def test_what_a_batch_may_hold(chain):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    samples = speech.tone(1.5)
    assert mapper.transcribe_batch([]) == []
    assert mapper.transcribe(torch.from_numpy(samples)) == mapper.transcribe(samples)
    for one in ("a.wav", samples, torch.from_numpy(samples)):
        with pytest.raises(InputError, match="one recording where a list of them is needed"):
            mapper.transcribe_batch(one)
    for wrong in ((16_000, samples), samples.tolist(), None, {"array": samples}):
        with pytest.raises(
            InputError, match=f"audio of type {type(wrong).__name__}: give a file, or an array or tensor"
        ):
            mapper.transcribe(wrong)


def test_an_llm_that_was_not_named_is_not_blamed_on_a_flag(chain, tmp_path):
    folder = tmp_path / "projector"
    load_projector(chain / "stage1").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["trained_for"]["target"]["llm"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=f"^{tmp_path}/gone: the embedding table of this LLM, by which the run reads vectors"
    ):
        SpeechMapper.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("kind", "what"), [("llm", "the LLM that this run was tuned with"), ("encoder", "the encoder")]
)
def test_a_recorded_model_that_has_moved_is_not_blamed_on_a_flag(chain, tmp_path, kind, what):
    run = shutil.copytree(chain / "stage2" / "projector", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["trained_for"][kind]["id"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError,
        match=f"^{tmp_path}/gone: {what}.* cannot be loaded \\(no such preset.*name where it is now with --{kind}$",
    ):
        SpeechMapper.from_pretrained(run, device="cpu")


def test_a_run_that_an_llm_reads_is_refused_beam_search_before_its_weights_are_read(chain, tmp_path):
    run = shutil.copytree(chain / "stage2", tmp_path / "run")
    (run / "projector" / "model.safetensors").unlink()
    path = run / "projector" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"readout": "ctc", "head": "rows"}))
    with pytest.raises(ConfigError, match=r"--beam, --hotwords: here the LLM \(.*llm\) writes the text"):
        SpeechMapper.from_pretrained(run, device="cpu", search=BeamSearch(4))


def test_a_run_tuned_with_a_quantised_llm_is_read_with_it_unless_one_is_named(chain, tmp_path, monkeypatch):
    run = shutil.copytree(chain / "stage2" / "projector", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["trained_for"]["llm"]["quantize"] = "8bit"
    (run / "config.json").write_text(json.dumps(config))
    loaded = []
    monkeypatch.setattr(
        "speechmapper.readout.build.load_llm", lambda *given: loaded.append(given[4]) or load_llm(*given)
    )
    for llm in (None, str(chain / "llm")):
        assert isinstance(SpeechMapper.from_pretrained(run, llm, device="cpu").transcribe(speech.tone(1.5)), str)
    assert [each.quantize if each else "none" for each in loaded] == ["8bit", "none"]
