"""From waves to stored features; batches that do not fit into a GPU's memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sm_pipeline.extraction.encoding import BatchEncoder, average_frames, store_features
from sm_store.errors import RunFailed


class SmallMemory:
    """An encoder of 50 frames a second with memory for so many squared samples, as attention takes it."""

    width, frame_rate, layer = 4, 50.0, 1

    def __init__(self, squares: float) -> None:
        self.squares = squares
        self.tried: list[int] = []

    def encode(self, waves):
        self.tried.append(len(waves))
        if len(waves) * max(map(len, waves)) ** 2 > self.squares:
            raise torch.OutOfMemoryError("CUDA out of memory")
        frames = [len(wave) // 320 for wave in waves]
        features = torch.zeros(len(waves), max(frames), self.width)
        for row, (wave, count) in enumerate(zip(waves, frames, strict=True)):
            features[row, :count] = torch.from_numpy(wave[: count * 320]).view(count, 320)[:, :4]
        return features, frames


def random_waves(*seconds: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=round(16_000 * each)).astype(np.float32) for each in seconds]


def features_of(batches: BatchEncoder, waves) -> list[np.ndarray]:
    return [each for part in batches.start(waves) for each in part.features()]


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8])
def test_a_batch_is_halved_until_it_fits_and_nothing_is_lost(fits):
    waves = random_waves(2.0, 1.9, 1.7, 1.5, 1.5, 1.2, 1.0, 0.8)
    whole, halves = SmallMemory(np.inf), SmallMemory(fits * 32_000.0**2)
    batches = BatchEncoder(halves, 2, "float16")
    expected = features_of(BatchEncoder(whole, 2, "float16"), waves)
    for got, wanted in zip(features_of(batches, waves), expected, strict=True):
        assert np.array_equal(got, wanted)
    assert (batches.halved == 0) == (fits == 8)


def test_what_did_not_fit_is_not_tried_again():
    encoder = SmallMemory(2 * 32_000.0**2)
    batches = BatchEncoder(encoder, 2, "float16")
    batches.start(random_waves(2.0, 2.0, 2.0, 2.0))
    assert encoder.tried == [4, 2, 2]
    batches.start(random_waves(2.0, 2.0, 2.0, 2.0))
    assert encoder.tried == [4, 2, 2, 2, 2]
    batches.start(random_waves(1.0, 1.0, 1.0, 1.0))  # as many, but shorter
    assert encoder.tried == [4, 2, 2, 2, 2, 4]
    assert batches.halved == 2


def test_one_utterance_that_does_not_fit_ends_the_run_with_a_remedy():
    with pytest.raises(RunFailed, match=r"an utterance of 2\.0 s does not fit .* lower --max-seconds"):
        BatchEncoder(SmallMemory(16_000.0**2), 2, "float16").start(random_waves(2.0, 0.5))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("num_frames", [0, 1, 4, 7, 11])
def test_averaging_against_the_obvious_way(k, num_frames):
    features = torch.randn(2, num_frames, 3)
    expected = [features[:, at * k : at * k + k].mean(dim=1) for at in range(num_frames // k)]
    expected = torch.stack(expected, dim=1) if expected else features[:, :0]
    assert torch.equal(average_frames(features, k), expected)


def test_averaging_never_reaches_the_padding():
    features = torch.ones(2, 8, 3)
    features[1, 5:] = torch.nan  # beyond the second utterance's five frames
    first, second = store_features(features, [8, 5], 2, "float32")
    assert first.shape == (4, 3)
    assert second.shape == (2, 3)
    assert np.isfinite(second).all()


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("float16", "<f2"), ("float32", "<f4"), ("bfloat16", "<u2")])
def test_stored_dtypes(dtype, numpy_dtype):
    features = torch.tensor([[[1.0, -2.5], [3.0, 0.5]]])
    (stored,) = store_features(features, [2], 1, dtype)
    assert stored.dtype == np.dtype(numpy_dtype)
    assert stored.flags.c_contiguous
    back = torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else stored
    assert np.asarray(torch.as_tensor(back).float()).tolist() == features[0].tolist()


def test_stored_features_do_not_hold_on_to_the_batch():
    stored = store_features(torch.zeros(3, 100, 8), [100, 2, 2], 2, "float16")
    assert all(each.base is None for each in stored)
