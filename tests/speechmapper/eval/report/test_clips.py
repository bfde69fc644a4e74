"""Audio inside a page: from which manifest, how small, and why there is none."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile

from sm_store.errors import ManifestError
from speechmapper.eval.report import clips
from speechmapper.eval.report.clips import Clips, as_data
from tests.speechmapper.eval.report.made import evaluation, write_corpus

PREFIX = "data:audio/mpeg;base64,"


def of(source):
    return evaluation(about={"task": "asr", "source": source})


def decoded(address):
    assert address.startswith(PREFIX)
    return soundfile.read(io.BytesIO(base64.b64decode(address.removeprefix(PREFIX))))


def test_the_audio_is_what_was_recorded_and_small():
    time = np.arange(16_000 * 2) / 16_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    address = as_data(tone)
    samples, rate = decoded(address)
    assert rate == 16_000 and abs(len(samples) / rate - 2) < 0.2
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()] - 440) < 2
    assert len(address) < 2 * 24_000 / 8 * 4 / 3 * 1.3
    assert as_data(tone) == address


def test_long_recordings_are_cut():
    samples, rate = decoded(as_data(np.zeros(16_000 * 40, np.float32)))
    assert len(samples) / rate == pytest.approx(clips.LONGEST, abs=0.2)


def test_the_manifest_that_was_evaluated(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", ["u0", "u1"])
    shown = Clips()
    assert decoded(shown.of(of(str(manifest)), "u0").source)[1] == 16_000
    assert shown.of(of(str(manifest)), "other").reason.startswith("no utterance of this id")


def test_a_manifest_that_is_named_comes_first(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", ["u0"])
    for about in ({}, {"source": str(tmp_path)}, {"source": "gone"}):
        assert Clips([manifest]).of(evaluation(about=about), "u0").source
    with pytest.raises(ManifestError, match="no such manifest"):
        Clips([tmp_path / "none.jsonl"])


def test_why_there_is_none(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    reasons = {
        str(tmp_path): "made from a store",
        "s3://bucket/a.store": "made from a store",
        str(tmp_path / "gone.jsonl"): "is not at",
        str(tmp_path / "bad.jsonl"): "cannot be read",
        "a\0b": "",
        None: "no source is recorded",
        7: "no source is recorded",
    }
    for source, reason in reasons.items():
        clip = Clips().of(of(source), "u0")
        assert clip.source == "" and reason in clip.reason and "--manifest" in clip.reason


def test_a_broken_recording_says_so(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", ["u0"])
    (tmp_path / "corpus" / "u0.wav").write_bytes(b"RIFF")
    clip = Clips().of(of(str(manifest)), "u0")
    assert clip.source == "" and "u0.wav" in clip.reason


def test_a_page_has_so_much_audio_and_no_more(tmp_path, monkeypatch):
    manifest = write_corpus(tmp_path / "corpus", ["u0"])
    size = len(Clips().of(of(str(manifest)), "u0").source)
    monkeypatch.setattr(clips, "LARGEST", int(2.5 * size))
    shown = Clips()
    found = [shown.of(of(str(manifest)), "u0") for _ in range(3)]
    assert [bool(clip.source) for clip in found] == [True, True, False]
    assert "as much audio" in found[2].reason
