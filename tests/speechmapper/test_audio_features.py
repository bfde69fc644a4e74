"""Audio to projector input: the features a store would hold."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from sm_store import Store
from sm_store.errors import IdentityMismatch, InputError
from speechmapper.audio_features import load_listening, load_wave, require_audio_file
from speechmapper.saved_projector import load_projector
from tests import speech


def test_features_are_those_of_the_store(chain):
    store, audio = Store.open(chain / "store"), speech.audio_paths(chain / "corpus" / "manifest.jsonl")
    listening = load_listening(load_projector(chain / "stage1").config.trained_for, None, "cpu")
    for index in range(len(store)):
        record = store[index]
        features, lengths = listening.features([load_wave(audio[record.id])])
        assert lengths.tolist() == [len(record.features)]
        assert np.allclose(features[0].numpy(), record.features, atol=2e-3)


def test_an_utterance_has_the_same_features_in_any_batch(chain):
    paths = list(speech.audio_paths(chain / "corpus" / "manifest.jsonl").values())
    listening = load_listening(load_projector(chain / "stage1").config.trained_for, None, "cpu")
    waves = [load_wave(path) for path in paths]
    together, lengths = listening.features(waves)
    assert together.shape[:2] == (len(waves), int(lengths.max()))
    for row, wave in enumerate(waves):
        alone, length = listening.features([wave])
        assert int(length) == int(lengths[row])
        assert np.allclose(together[row, : int(length)].float(), alone[0].float(), atol=2e-3)
        assert not together[row, int(length) :].any()


def test_the_encoder_may_have_moved_but_not_changed(chain):
    made = load_projector(chain / "stage1").config.trained_for
    assert load_listening(made, "tiny-seamless", "cpu").average == made["average"]
    other = {**made, "encoder": {**made["encoder"], "layer": 1}}
    other["encoder"]["weights_sha256"] = "0" * 64
    with pytest.raises(IdentityMismatch, match="encoder tiny-seamless"):
        load_listening(other, "tiny-seamless", "cpu")


def test_samples_become_contiguous_float32():
    samples = np.linspace(-1, 1, 32_000)[::2]
    wave = load_wave(samples)
    assert wave.dtype == np.float32 and wave.flags.c_contiguous
    assert np.array_equal(wave, samples.astype(np.float32))


def test_read_only_samples_are_copied():
    samples = np.frombuffer(np.linspace(-1, 1, 16_000, dtype=np.float32).tobytes(), np.float32)
    assert not samples.flags.writeable and load_wave(samples).flags.writeable


def test_a_file_may_be_longer_where_that_is_allowed(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(61 * 16_000, np.float32), 16_000)
    with pytest.raises(InputError, match=r"a\.flac: longer than 60 s; cut it into shorter files"):
        load_wave(tmp_path / "a.flac")
    assert len(load_wave(tmp_path / "a.flac", None, 100.0)) == 61 * 16_000
    with pytest.raises(InputError, match="the samples: longer than 100 s"):
        load_wave(np.zeros(101 * 8_000, np.float32), None, 100.0, 8_000)


def test_the_length_of_a_file_is_told_without_decoding_it(tmp_path, monkeypatch):
    path = speech.write_audio(tmp_path / "a.wav", 2.0)
    (tmp_path / "page.wav").write_text("<html>")
    monkeypatch.setattr("sm_pipeline.audio._read_part", None)
    assert require_audio_file(path) == 2.0
    with pytest.raises(InputError, match=r"page\.wav: audio format"):
        require_audio_file(tmp_path / "page.wav")


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_integer_samples_are_scaled_as_in_a_file(tmp_path, dtype):
    full = np.iinfo(dtype)
    samples = np.linspace(full.min, full.max, 16_000).astype(dtype)
    subtype = {np.int16: "PCM_16", np.int32: "PCM_32", np.uint8: "PCM_U8"}[dtype]
    floats = np.linspace(-1, 1, 16_000)
    soundfile.write(tmp_path / "a.wav", floats, 16_000, subtype=subtype)
    np.testing.assert_allclose(load_wave(samples), load_wave(tmp_path / "a.wav"), atol=2.5 / 2**8)
    assert load_wave(samples).dtype == np.float32
    assert (load_wave(samples).min(), load_wave(samples)[len(samples) // 2]) == (-1, pytest.approx(0, abs=0.01))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_, np.complex64, object])
def test_samples_of_unknown_scale_are_refused(dtype):
    with pytest.raises(InputError, match="audio array of type"):
        load_wave(np.zeros(16_000, dtype))


@pytest.mark.parametrize("samples", [np.zeros((2, 16_000)), np.array([0.0, np.inf]), np.array([np.nan])])
def test_samples_that_are_not_one_finite_channel_are_refused(samples):
    with pytest.raises(InputError, match="audio array of shape"):
        load_wave(samples)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "page.wav").write_text("<html>")
    for name in ("page.wav", "missing.wav"):
        with pytest.raises(InputError, match=name):
            load_wave(tmp_path / name)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"fLaC" + b"\0" * 40, "audio unreadable: damaged"),
        (b"<html>", "audio format: not WAV"),
        (None, "audio missing: no such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_once(tmp_path, contents, words):
    path = tmp_path / "talk.flac"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(InputError) as caught:
        load_wave(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert str(caught.value).count("talk.flac") == 1
