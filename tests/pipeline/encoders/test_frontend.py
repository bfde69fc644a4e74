"""Filter banks against Hugging Face's extractor, which works frame by frame in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor

from sm_pipeline.encoders.frontend import FilterBank

CPU = torch.device("cpu")
LENGTHS = (1_600, 1_679, 1_680, 1_681, 16_000, 40_001, 7_777)
SLOW = SeamlessM4TFeatureExtractor()


def speech_like(size, rng):
    """Noise of a falling spectrum, loud and quiet in turn: 60 dB between bins and between moments."""
    noise = np.cumsum(rng.standard_normal(size)) * 0.01
    noise -= np.convolve(noise, np.ones(160) / 160, "same")
    return (noise * (0.02 + np.abs(np.sin(np.arange(size) / 3000)))).astype(np.float32)


SIGNALS = {
    "speech-like": speech_like,
    "noise": lambda size, rng: (rng.standard_normal(size) * 0.1).astype(np.float32),
    "quiet": lambda size, rng: (rng.standard_normal(size) * 1e-5).astype(np.float32),
    "offset": lambda size, rng: (0.3 + rng.standard_normal(size) * 1e-3).astype(np.float32),
    "half silent": lambda size, rng: np.where(np.arange(size) < size / 2, rng.standard_normal(size), 0).astype("f4"),
    "clipped": lambda size, rng: np.clip(rng.standard_normal(size) * 3, -1, 1).astype(np.float32),
}


def both(waves, extractor=SLOW):
    expected = extractor(waves, sampling_rate=16_000, return_tensors="pt")
    inputs, mask = FilterBank(extractor, CPU)(waves)
    assert inputs.dtype == torch.float32 and inputs.shape == expected["input_features"].shape
    assert mask.dtype == torch.bool and torch.equal(mask, expected["attention_mask"].bool())
    return inputs, expected["input_features"], mask


@pytest.mark.parametrize("name", SIGNALS)
def test_equal_to_hugging_faces(name):
    rng = np.random.default_rng(0)
    inputs, expected, _ = both([SIGNALS[name](size, rng) for size in LENGTHS])
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-4)
    for size in LENGTHS:
        inputs, expected, _ = both([SIGNALS[name](size, rng)])
        torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-4)


def test_an_utterance_has_the_same_features_in_any_batch():
    rng = np.random.default_rng(1)
    waves = [speech_like(int(size), rng) for size in rng.integers(560, 30_000, 12)]
    bank = FilterBank(SLOW, CPU)
    together, mask = bank(waves)
    for place, wave in enumerate(waves):
        alone, own = bank([wave])
        frames = int(own.sum())
        assert int(mask[place].sum()) == frames
        torch.testing.assert_close(together[place, :frames], alone[0, :frames], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [560, 719, 720, 721, 880])
def test_a_few_frames_are_as_near_as_their_deviations_allow(size):
    for seed in range(20):
        inputs, expected, _mask = both([speech_like(size, np.random.default_rng(seed))])
        torch.testing.assert_close(inputs, expected, rtol=0, atol=5e-3)
        assert float((inputs - expected).abs().median()) < 2e-6


def test_silence_is_zero():
    inputs, mask = FilterBank(SLOW, CPU)([np.zeros(16_000, np.float32)])
    assert mask.all() and not inputs.any()


def test_the_shortest_has_one_frame_and_settings_are_the_extractors():
    bank = FilterBank(SLOW, CPU)
    assert bank.min_samples == 560
    assert bank([np.ones(560, np.float32)])[1].sum() == 1
    other = SeamlessM4TFeatureExtractor(feature_size=40, num_mel_bins=40, stride=2)
    waves = [speech_like(size, np.random.default_rng(2)) for size in (9_000, 12_345)]
    inputs, expected, _ = both(waves, other)
    assert inputs.shape[2] == 80
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-4)


def test_the_waves_stay_as_they_are():
    wave = speech_like(5_000, np.random.default_rng(3))
    before = wave.copy()
    FilterBank(SLOW, CPU)([wave])
    assert np.array_equal(wave, before)
