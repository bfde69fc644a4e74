"""The measured rate: hours of a sample over the time its encoding takes, of audio that can be read."""

from __future__ import annotations

import pytest

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.config import ExtractConfig
from sm_pipeline.extraction import rate
from sm_pipeline.extraction.rate import measure_rate
from sm_pipeline.manifest import read_manifest
from sm_store.errors import ManifestError
from tests.speech import write_lines


@pytest.fixture
def clock(monkeypatch):
    """A timer by which each batch takes two seconds; the batches are listed, in seconds of audio."""
    now, batches = [100.0], []

    def encode(_encoder, waves):
        batches.append(sum(map(len, waves)) / SAMPLE_RATE)
        now[0] += 2.0

    monkeypatch.setattr(rate, "_encode", encode)
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    return batches


def config(path) -> ExtractConfig:
    return ExtractConfig(path, path.parent / "s", encoder="tiny-seamless", device="cpu", compute_dtype="float32")


def test_audio_over_time_after_a_warm_up(tiny_corpus, clock):
    manifest = read_manifest(tiny_corpus)
    found = measure_rate(config(tiny_corpus), manifest, manifest.utterances)
    warm_up, measured = clock[0], clock[1:]
    assert warm_up == min(measured)  # the shortest batch comes last
    assert found.device == "one CPU core"
    assert found.hours_per_hour == pytest.approx(sum(measured) / (2.0 * len(measured)), rel=1e-6)


def test_it_stops_at_the_seconds_wanted(tiny_corpus, clock, monkeypatch):
    monkeypatch.setitem(rate.SECONDS, "cpu", 3.0)
    manifest = read_manifest(tiny_corpus)
    measure_rate(config(tiny_corpus), manifest, manifest.utterances)
    assert 3.0 <= sum(clock[1:]) < 8.0  # utterances of about two seconds


def test_no_audio_that_can_be_read(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", [{"id": "a", "audio": "missing.wav", "text": "a"}])
    manifest = read_manifest(path)
    with pytest.raises(ManifestError, match="none of 1 utterances can be read; check --audio-root"):
        measure_rate(config(path), manifest, manifest.utterances)
