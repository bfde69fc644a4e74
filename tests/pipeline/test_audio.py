"""Audio: every format and rate in, 16 kHz mono out, and one named reason for whatever is wrong."""

from __future__ import annotations

import hashlib
import os
import struct
import time

import numpy as np
import pytest
import soundfile

from sm_pipeline.audio import Cut, Waveform, file_seconds, promised_seconds, read_audio
from sm_store.errors import SampleError
from sm_store.ledger import REASONS
from tests.speech import tone, write_audio


def reason(path, cut=None, **settings) -> str:
    with pytest.raises(SampleError) as caught:
        read_audio(path, cut, **settings)
    assert caught.value.reason in REASONS
    assert "\n" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "ULAW"])
def test_wav_samples_are_what_was_written(tmp_path, subtype):
    path = write_audio(tmp_path / "a.wav", 1.0, subtype=subtype)
    wave = read_audio(path)
    assert isinstance(wave, Waveform)
    assert (wave.rate, wave.samples.dtype, wave.samples.shape) == (16_000, np.float32, (16_000,))
    tolerance = {"PCM_U8": 0.01, "ULAW": 0.02}.get(subtype, 4e-5)
    np.testing.assert_allclose(wave.samples, tone(1.0), atol=tolerance)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.opus"])
def test_compressed_formats(tmp_path, name):
    opus = {"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}
    wave = read_audio(write_audio(tmp_path / name, 2.0, **opus))
    assert wave.seconds == pytest.approx(2.0, abs=0.05)
    kept = min(len(wave.samples), 32_000)
    assert np.corrcoef(wave.samples[:kept], tone(2.0)[:kept])[0, 1] > 0.95


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_length_and_tone(tmp_path, rate):
    at = np.arange(rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * at), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "a.wav").samples
    assert len(samples) == 16_000
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert spectrum.argmax() == 440
    middle = samples[2_000:-2_000]
    np.testing.assert_allclose(np.sqrt(np.mean(middle**2)), 0.5 / np.sqrt(2), rtol=0.01)


def test_channels_are_averaged(tmp_path):
    left, right = tone(1.0, seed=1), tone(1.0, seed=2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").samples, (left + right) / 2, atol=1e-6)
    soundfile.write(tmp_path / "b.wav", np.repeat(left[:, None], 16, axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "b.wav").samples, left, atol=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_segments_are_exact(tmp_path, name):
    path = write_audio(tmp_path / name, 3.0, rate=8_000, subtype="PCM_16")
    soundfile.write(tmp_path / "whole.wav", tone(3.0)[16_000:24_000], 16_000)
    segment = read_audio(write_audio(tmp_path / f"16-{name}", 3.0), Cut(1.0, 0.5)).samples
    np.testing.assert_allclose(segment, tone(3.0)[16_000:24_000], atol=4e-5)
    assert read_audio(path, Cut(1.0, 0.5)).seconds == pytest.approx(0.5, abs=1e-3)
    assert read_audio(path, Cut(2.25)).seconds == pytest.approx(0.75, abs=1e-3)
    assert read_audio(path, Cut(0.0, 1.5)).seconds == pytest.approx(1.5, abs=1e-3)


def test_the_promised_duration_is_held_to(tmp_path):
    path = write_audio(tmp_path / "a.wav", 2.0)
    assert read_audio(path, Cut(duration=2.0)).seconds == 2.0
    assert read_audio(path, Cut(duration=2.09)).seconds == 2.0  # a rounded promise
    assert read_audio(path, Cut(duration=1.95)).seconds == 2.0  # the whole file is the utterance
    assert read_audio(path, Cut(duration=1.8)).seconds == 2.0  # nothing is cut
    assert reason(path, Cut(duration=1.5)) == "longer_than_promised"  # the text would be of other audio
    assert read_audio(path, Cut(0.0, 1.5)).seconds == 1.5
    assert reason(path, Cut(duration=2.2)) == "shorter_than_promised"
    assert reason(path, Cut(1.0, 1.2)) == "shorter_than_promised"
    assert reason(path, Cut(5.0, 1.0)) == "shorter_than_promised"
    assert reason(path, Cut(5.0)) == "shorter_than_promised"


def test_a_file_that_is_longer_names_both_lengths_and_the_way(tmp_path):
    """73 frames of features for a text of 49: the whole file or nothing, never its beginning with the whole text."""
    path = write_audio(tmp_path / "a.flac", 1.46)
    with pytest.raises(SampleError, match=r"a\.flac: 1\.46 s, the manifest says 0\.98 s; give an offset") as caught:
        read_audio(path, Cut(duration=0.98))
    assert caught.value.reason == "longer_than_promised"
    long = tmp_path / "long.flac"
    soundfile.write(long, np.zeros(30 * 60 * 16_000, np.float32), 16_000)
    assert reason(long, Cut(duration=3.0)) == "longer_than_promised"


def test_channels_of_opposite_phase_do_not_cancel(tmp_path):
    loud, quiet = tone(1.0, seed=1), -0.9 * tone(1.0, seed=1)
    soundfile.write(tmp_path / "a.wav", np.stack([quiet, loud], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").samples, loud, atol=1e-6)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", Cut(0.25, 0.5)).samples, loud[4_000:12_000], atol=1e-6)


@pytest.mark.parametrize("channels", [2, 8, 16])
def test_one_channel_that_speaks_is_still_averaged(tmp_path, channels):
    """An average is what stores were made with: silent or independent channels do not count as cancelling."""
    samples = np.zeros((16_000, channels), np.float32)
    samples[:, 1] = tone(1.0)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").samples, tone(1.0) / channels, atol=1e-6)
    noise = np.random.default_rng(0).standard_normal((16_000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "b.wav", noise, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "b.wav").samples, noise.mean(axis=1), atol=1e-6)


OTHER_FORMATS = ["AIFF", "AU", "CAF", "W64", "NIST", "RF64"]


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_other_formats_that_libsndfile_reads(tmp_path, kind):
    path = tmp_path / "a.sph"
    soundfile.write(path, tone(2.0), 16_000, format=kind, subtype="PCM_16")
    np.testing.assert_allclose(read_audio(path).samples, tone(2.0), atol=4e-5)
    assert read_audio(path, Cut(0.5, 1.0)).seconds == 1.0
    assert reason(path, max_seconds=1.5) == "too_long"
    assert file_seconds(path) == 2.0


@pytest.mark.parametrize("kind", OTHER_FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_other_formats_truncated(tmp_path, kind, share):
    path = tmp_path / "a"
    soundfile.write(path, tone(3.0), 16_000, format=kind, subtype="PCM_16")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert reason(path) in ("shorter_than_promised", "audio_unreadable")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_truncated_files_do_not_pass_as_whole(tmp_path, name, share):
    path = write_audio(tmp_path / name, 3.0)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert reason(path, Cut(duration=3.0)) in ("shorter_than_promised", "audio_unreadable")
    if not name.endswith("ogg"):  # Ogg has no length in its header; there the manifest's promise is needed
        assert reason(path) in ("shorter_than_promised", "audio_unreadable")


@pytest.mark.parametrize(
    ("riff", "samples"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x7FFFFFFF + 36, 0x7FFFFFFF), (0x7FFFFF24, 0x7FFFFF00)],
)
def test_streamed_wavs_have_no_length_to_hold_to(tmp_path, riff, samples):
    path = write_audio(tmp_path / "a.wav", 1.0)
    data = bytearray(path.read_bytes())
    data[4:8], data[40:44] = struct.pack("<I", riff), struct.pack("<I", samples)
    path.write_bytes(data)
    assert read_audio(path).seconds == 1.0


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_header_cannot_make_us_allocate(tmp_path, name):
    path = write_audio(tmp_path / name, 1.0)
    data = bytearray(path.read_bytes())
    if name == "a.wav":
        data[4:8], data[40:44] = struct.pack("<I", 2**31), struct.pack("<I", 2**31 - 36)
    else:
        data[21] |= 0x0F  # the upper bits of STREAMINFO's sample count
        data[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    began = time.monotonic()
    assert reason(path) in ("shorter_than_promised", "audio_unreadable", "too_long")
    assert time.monotonic() - began < 5


def test_long_files_are_read_no_further_than_needed(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(30 * 60 * 16_000, np.float32), 16_000)
    assert reason(path) == "too_long"
    assert reason(path, Cut(duration=61.0)) == "too_long"
    assert reason(path, max_seconds=30) == "too_long"
    assert read_audio(path, Cut(600.0, 2.0)).seconds == 2.0
    assert read_audio(write_audio(tmp_path / "b.wav", 2.0), max_seconds=2.0).seconds == 2.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_must_be_finite(tmp_path, value):
    samples = tone(1.0)
    samples[12_345] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "audio_not_finite"
    soundfile.write(tmp_path / "b.wav", np.stack([tone(1.0), samples], 1), 44_100, subtype="FLOAT")
    assert reason(tmp_path / "b.wav") == "audio_not_finite"


def test_things_that_are_no_audio_file(tmp_path):
    (tmp_path / "page.wav").write_text("<!DOCTYPE html><html>404</html>")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "one.wav").write_bytes(b"R")
    (tmp_path / "riff.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "dangling.wav").symlink_to("nowhere.wav")
    (tmp_path / "a.wav").write_bytes(b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00")
    expected = {
        "page.wav": "audio_format",
        "empty.wav": "audio_unreadable",
        "one.wav": "audio_format",
        "riff.wav": "audio_unreadable",
        "folder.wav": "audio_missing",
        "fifo.wav": "audio_missing",
        "loop.wav": "audio_missing",
        "dangling.wav": "audio_missing",
        "missing.wav": "audio_missing",
        "page.wav/inner.wav": "audio_missing",
        "a.wav": "audio_format",
    }
    began = time.monotonic()
    assert {name: reason(tmp_path / name) for name in expected} == expected
    assert time.monotonic() - began < 5
    assert all(file_seconds(tmp_path / name) is None for name in expected)


def test_a_path_that_is_no_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xe4.wav")
    write_audio(tmp_path / "a.wav", 1.0).rename(path)
    assert read_audio(path).seconds == file_seconds(path) == 1.0


def test_the_suffix_does_not_matter(tmp_path):
    write_audio(tmp_path / "a.flac", 1.0).rename(tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav").seconds == 1.0


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400])
def test_very_short_files_are_read(tmp_path, num_samples):
    soundfile.write(tmp_path / "a.wav", tone(1.0)[:num_samples], 16_000)
    assert read_audio(tmp_path / "a.wav").samples.shape == (num_samples,)


def test_silence_is_audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    assert not read_audio(tmp_path / "a.wav").samples.any()


def test_random_damage_never_escapes(tmp_path):
    """Whatever a flipped file gives, it is a waveform or a SampleError."""
    rng = np.random.default_rng(0)
    outcomes = set()
    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3"):
        good = write_audio(tmp_path / name, 1.0).read_bytes()
        for _ in range(15):
            data = bytearray(good)
            for position in rng.integers(0, len(data), 3):
                data[position] ^= 1 << rng.integers(0, 8)
            (tmp_path / name).write_bytes(data)
            try:
                assert np.isfinite(read_audio(tmp_path / name).samples).all()
                outcomes.add("read")
            except SampleError as error:
                outcomes.add(error.reason)
                assert error.reason in REASONS
    assert "read" in outcomes


def test_promised_seconds_are_those_before_a_file_was_cut(tmp_path):
    path = write_audio(tmp_path / "a.wav", 2.0)
    assert promised_seconds(path) == 2.0
    path.write_bytes(path.read_bytes()[:-32_000])
    assert (file_seconds(path), promised_seconds(path)) == (1.0, pytest.approx(2.0))
    path.write_bytes(b"<html>")
    assert promised_seconds(path) is promised_seconds(tmp_path / "none.wav") is None


def test_file_seconds_by_the_header(tmp_path):
    assert file_seconds(write_audio(tmp_path / "a.mp3", 2.0, 44_100)) == pytest.approx(2.0, abs=0.05)


def test_a_file_with_another_checksum_is_not_the_one(tmp_path):
    path = write_audio(tmp_path / "a.wav", 1.0)
    promised = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_audio(path, sha256=promised).seconds == 1.0
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(SampleError, match=rf"a\.wav: its sha256 is \w+, the manifest says {promised}") as raised:
        read_audio(path, sha256=promised)
    assert raised.value.reason == "checksum_mismatch"
