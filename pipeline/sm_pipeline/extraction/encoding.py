"""From waveforms to stored features: encode a batch, average the frames, round to the store's dtype.

    batches = BatchEncoder(encoder, average=2, dtype="float16")
    parts = batches.start([wave, ...])            on a GPU this only queues the work; the next audio is read meanwhile
    features = [each for part in parts for each in part.features()]          (T, D) arrays, one per wave

A batch that does not fit into the GPU's memory is halved until it does.

Shapes: B batch, T frames, D encoder width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.devices import torch_dtype
from sm_pipeline.encoders.base import Encoder
from sm_store.errors import RunFailed

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True, slots=True)
class Started:
    """A batch being copied from a GPU, or complete.

    Attributes:
        stored_BTD: in this machine's memory, in the store's dtype (bfloat16 as its bits).
        frames_B: valid frames of each row.
        copied: with a GPU, the event that `stored_BTD` is complete.
    """

    stored_BTD: torch.Tensor
    frames_B: Sequence[int]
    copied: torch.cuda.Event | None

    def features(self) -> list[np.ndarray]:
        """One contiguous (T, D) array per wave; waits for the GPU."""
        if self.copied is not None:
            self.copied.synchronize()
        array_BTD = self.stored_BTD.numpy()
        return [array_BTD[row, :frames].copy() for row, frames in enumerate(self.frames_B)]


class BatchEncoder:
    """An encoder, averaging and rounding as one step.

    Attributes:
        halved: how often a batch did not fit into the GPU's memory.
    """

    def __init__(self, encoder: Encoder, average: int, dtype: str) -> None:
        self.halved = 0
        self._encoder, self._average, self._dtype = encoder, average, dtype
        self._too_much = float("inf")

    def start(self, waves: Sequence[np.ndarray]) -> list[Started]:
        """Start encoding a batch of float32 waves (samples,) at 16 kHz; in several parts where memory is short.

        Raises:
            RunFailed: a single utterance does not fit.
        """
        squares = len(waves) * max(map(len, waves)) ** 2  # attention takes memory with the square of a length
        if len(waves) == 1 or squares < self._too_much:
            try:
                return [self._start(waves)]
            except torch.OutOfMemoryError as error:
                if len(waves) == 1:
                    raise RunFailed(
                        f"an utterance of {len(waves[0]) / SAMPLE_RATE:.1f} s does not fit into the GPU's memory; "
                        "reject it with a lower --max-seconds, or use --compute-dtype bfloat16 or a larger GPU"
                    ) from error
                self._too_much = squares
            torch.cuda.empty_cache()  # here, where the error no longer references the failed batch's tensors
        self.halved += 1
        middle = len(waves) // 2
        return [*self.start(waves[:middle]), *self.start(waves[middle:])]

    def _start(self, waves: Sequence[np.ndarray]) -> Started:
        features_BTD, frames_B = self._encoder.encode(waves)
        stored_BTD = to_stored(features_BTD, self._average, self._dtype)
        kept = [frames // self._average for frames in frames_B]
        if not stored_BTD.is_cuda:
            return Started(stored_BTD, kept, None)
        here = torch.empty(stored_BTD.shape, dtype=stored_BTD.dtype, pin_memory=True)
        here.copy_(stored_BTD, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return Started(here, kept, copied)


def store_features(features_BTD: torch.Tensor, frames_B: Sequence[int], average: int, dtype: str) -> list[np.ndarray]:
    """Averaged features in the store's dtype, one contiguous (T, D) array per utterance; bfloat16 as its bits."""
    stored_BTD = to_stored(features_BTD, average, dtype).cpu()
    return Started(stored_BTD, [frames // average for frames in frames_B], None).features()


def to_stored(features_BTD: torch.Tensor, average: int, dtype: str) -> torch.Tensor:
    """Averaged and rounded features, on the device they are on; bfloat16 as its uint16 bits."""
    stored_BTD = average_frames(features_BTD, average).to(torch_dtype(dtype))
    return stored_BTD.view(torch.uint16) if dtype == "bfloat16" else stored_BTD


def average_frames(features_BTD: torch.Tensor, k: int) -> torch.Tensor:
    """Mean of each k consecutive frames, (..., T, D) to (..., T // k, D); remaining frames are dropped."""
    kept = features_BTD.shape[-2] // k
    return features_BTD[..., : kept * k, :].unflatten(-2, (kept, k)).mean(dim=-2)


@contextmanager
def single_thread(device: str) -> Iterator[None]:
    """On a CPU, compute with one thread while the block runs; with a GPU, change nothing."""
    before = torch.get_num_threads()
    if not device.startswith("cuda"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Have glibc keep freed memory for the next batch, rather than give it back to the system.

    Pages that are requested again cost page faults, a tenth of a CPU's time at the sizes of one utterance. The setting
    holds for the rest of this process; with other C libraries nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
