"""From audio to text with one object: the same as going through a store, and strict about what it is given."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from dataclasses import replace
from itertools import chain as chain_of
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import soxr
import torch
from typer.testing import CliRunner

from sm_store.errors import ConfigError, IdentityMismatch, InputError, ModelError
from speechmapper import SpeechMapper
from speechmapper.cli import app
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.llm_loading import load_llm
from speechmapper.loader.epoch import Budget
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import llm_readout
from speechmapper.saved_projector import load_projector
from speechmapper.tasks import ASR, Item
from tests import speech

SPOKEN = speech.spoken("the old dog ran home")


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
    prompter = mapper.reader.readout.llm.prompter
    write = prompter.write
    monkeypatch.setattr(prompter, "write", lambda asked: said.append(asked) or write(asked))
    mapper.transcribe(SPOKEN)
    assert [(each.system, each.text) for each in said] == [("a", "Say it again.")]


def test_samples_are_taken_as_well_as_files(chain):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    assert mapper.transcribe(SPOKEN) == mapper.transcribe(SPOKEN.astype(np.float64)) != ""
    assert mapper.transcribe([SPOKEN, speech.spoken("a bird sang by the river")])[0] == mapper.transcribe(SPOKEN)


def test_samples_of_another_rate_are_resampled_as_a_file_is(chain, tmp_path):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    samples = soxr.resample(SPOKEN, 16_000, 44_100)
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    assert mapper.transcribe(samples, sampling_rate=44_100) == mapper.transcribe(tmp_path / "a.wav") != ""
    for rate in (0, 44.1, None):
        with pytest.raises(InputError, match=f"sampling_rate {rate}: give a whole number of Hz"):
            mapper.transcribe(samples, sampling_rate=rate)


def test_files_that_are_open_are_taken(chain, tmp_path):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    path = next(iter(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values()))
    with open(path, "rb") as file:
        assert mapper.transcribe([file, io.BytesIO(Path(path).read_bytes())]) == [mapper.transcribe(path)] * 2
    with pytest.raises(InputError, match="the file: audio format: not WAV"):
        mapper.transcribe(io.BytesIO(b"<html>"))
    with pytest.raises(InputError, match="audio of type StringIO"):
        mapper.transcribe(io.StringIO("RIFF"))


@pytest.mark.parametrize(
    "samples", [np.zeros(100, np.float32), np.zeros((2, 16_000), np.float32), np.full(16_000, np.nan, np.float32)]
)
def test_samples_that_cannot_be_used(chain, samples):
    with pytest.raises(InputError):
        SpeechMapper.from_pretrained(chain / "stage1", device="cpu").transcribe(samples)


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
    page = tmp_path / "page.flac"
    page.write_text("<html>")
    result = CliRunner().invoke(app, ["transcribe", str(page), "none.wav", "--model", str(chain / "stage1")])
    assert isinstance(result.exception, InputError)
    assert re.fullmatch(rf"{page}: audio format: not WAV, .* by its first bytes \(and 1 more\)", str(result.exception))


def test_what_may_be_given(chain):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    assert mapper.transcribe([]) == [] == mapper.run("asr", [])
    assert mapper.transcribe(torch.from_numpy(SPOKEN.copy())) == mapper.transcribe(SPOKEN)
    for wrong in ((16_000, SPOKEN), SPOKEN.tolist(), None, {"array": SPOKEN}):
        with pytest.raises(
            InputError, match=f"audio of type {type(wrong).__name__}: give a file, or an array or tensor"
        ):
            mapper.transcribe(wrong)
    with pytest.raises(ConfigError, match="task 'asrr': no such task; use asr, st, sqa"):
        mapper.run("asrr", SPOKEN)
    for needs_llm in (lambda: mapper.translate(SPOKEN, to="de"), lambda: mapper.ask(SPOKEN, "who?")):
        with pytest.raises(ConfigError, match="needs an LLM"):
            needs_llm()


def test_batches_are_by_length_and_answers_in_the_order_given(chain, monkeypatch):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    recordings = [np.tile(speech.spoken(text), 2 + 3 * (number % 2)) for number, text in enumerate(speech.TEXTS)]
    alone = [mapper.transcribe(recording) for recording in recordings]
    assert len(set(alone)) > 4
    sizes = []
    encode = mapper.reader.listening.encoder.encode
    monkeypatch.setattr(
        mapper.reader.listening.encoder, "encode", lambda waves: sizes.append([*map(len, waves)]) or encode(waves)
    )
    monkeypatch.setattr("speechmapper.model.recordings.BATCH", Budget(frames=4096, max_utterances=4))
    assert mapper.transcribe(recordings) == alone
    assert [len(each) for each in sizes] == [4, 4]
    assert [*chain_of.from_iterable(sizes)] == sorted(map(len, recordings), reverse=True)


def test_one_recording_that_cannot_be_used_is_told_in_its_place(chain):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    seconds = []
    audio = ["none.wav", SPOKEN, np.zeros(10, np.float32), np.zeros(16_000, np.float32)]
    missing, text, short, silent = mapper.answers("asr", audio, advance=seconds.append)
    assert "none.wav: audio missing" in str(missing) and "too short" in str(short)
    assert text.text == mapper.transcribe(SPOKEN)
    assert (silent.text, silent.segments, silent.duration) == ("", [], 1.0)
    assert sum(seconds) == pytest.approx(len(SPOKEN) / 16_000 + 1)
    with pytest.raises(InputError, match=r"none\.wav"):
        mapper.transcribe(audio)


def test_ninety_items_over_ten_minutes_are_all_read(chain, tmp_path):
    samples, places = speech.spoken_items(90, 7.0)
    soundfile.write(tmp_path / "items.flac", samples, 16_000)
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    answer = mapper.run("asr", tmp_path / "items.flac")
    assert answer.duration == pytest.approx(630)
    assert all(segment.text for segment in answer.segments) and not answer.stopped_by_length
    assert answer.text == " ".join(segment.text for segment in answer.segments)
    for first, last in places:
        assert [
            each for each in answer.segments if each.start - 0.2 < first / 16_000 and last / 16_000 < each.end + 0.2
        ]
    assert all(one.end <= other.start for one, other in pairwise(answer.segments))


def test_a_window_of_recordings_at_a_time_gives_the_same(chain, monkeypatch):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    recordings = [speech.spoken(text) for text in speech.TEXTS[:5]]
    together = mapper.transcribe(recordings)
    monkeypatch.setattr("speechmapper.model.mapper.WINDOW_SECONDS", 1.5)
    taken = []
    answers = mapper.answers("asr", (taken.append(each) or each for each in recordings))
    assert next(answers).text == together[0] and len(taken) < 4
    assert [each.text for each in answers] == together[1:]


@pytest.fixture(scope="module")
def tuned(chain) -> SpeechMapper:
    mapper = SpeechMapper.from_pretrained(chain / "stage2", device="cpu")
    mapper.reader.readout.llm.model.config.max_position_embeddings = 1024
    return mapper


@pytest.fixture(scope="module")
def long() -> np.ndarray:
    """Thirty seconds in two pieces."""
    pause = np.zeros(8 * 16_000, np.float32)
    return np.concatenate([SPOKEN, pause, SPOKEN, pause, SPOKEN, pause, SPOKEN])


@pytest.mark.parametrize("task", ["asr", "st", "sqa"])
def test_streamed_text_is_the_whole_text(tuned, long, task):
    item = {"asr": None, "st": Item(language="de"), "sqa": Item(values={"question": "who?"})}[task]
    for recording in (SPOKEN, long, np.zeros(16_000, np.float32)):
        deltas = list(tuned.stream(task, recording, item))
        assert "".join(deltas) == tuned.run(task, recording, item).text
        assert len(deltas) >= (1 if task == "sqa" else 2) or recording is not long


def test_a_stream_that_is_left_ends_the_llm(tuned):
    stream = tuned.stream("asr", SPOKEN)
    next(stream)
    stream.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "generate"] == []


def test_without_an_llm_text_comes_piece_by_piece(chain, long):
    mapper = SpeechMapper.from_pretrained(chain / "stage1", device="cpu")
    deltas = list(mapper.stream("asr", long))
    assert "".join(deltas) == mapper.transcribe(long) and len(deltas) == 2


def test_translations_and_questions_are_asked(tuned, long):
    seen = []
    write = tuned.reader.readout.llm.prompter.write
    with mock.patch.object(
        tuned.reader.readout.llm.prompter, "write", lambda asked: seen.append(asked) or write(asked)
    ):
        assert isinstance(tuned.translate(SPOKEN, to="German"), str)
        assert len(tuned.ask([SPOKEN, long], "Who ran?")) == 2
        answer = tuned.run("st", long, Item(language="fr"))
    assert "Übersetze" in seen[0].text and "Who ran?" in seen[1].text and seen[1] == seen[2]
    assert answer.language == "fr" and len(answer.segments) == 2
    whole = tuned.run("sqa", long, Item(values={"question": "Who ran?"}))
    assert len(whole.segments) == 1 and whole.segments[0].end > 26
    with pytest.raises(ConfigError, match="no st prompt for 'tlh'"):
        tuned.translate(SPOKEN, to="tlh")


def test_a_recording_that_the_llm_cannot_take_at_once_is_refused(tuned, long):
    with (
        mock.patch.object(tuned.reader.readout.llm.model.config, "max_position_embeddings", 300),
        pytest.raises(InputError, match=r"the samples: its speech takes \d+ of the LLM's 300 positions"),
    ):
        tuned.ask(long, "Who ran?")


def test_text_that_was_stopped_is_flagged(tuned):
    long = tuned.run("st", SPOKEN, Item(language="de"))
    readout = llm_readout(tuned.reader.readout.llm, tuned.reader.readout.head, 1)
    with mock.patch.object(tuned, "reader", replace(tuned.reader, readout=readout)):
        cut = tuned.run("st", SPOKEN, Item(language="de"))
        whole = tuned.run("sqa", np.tile(SPOKEN, 25), Item(values={"question": "who?"}))
    assert cut.stopped_by_length and cut.segments[0].stopped_by_length and whole.stopped_by_length
    assert len(cut.text) <= len(long.text)


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
        assert isinstance(SpeechMapper.from_pretrained(run, llm, device="cpu").transcribe(SPOKEN), str)
    assert [each.quantize if each else "none" for each in loaded] == ["8bit", "none"]
