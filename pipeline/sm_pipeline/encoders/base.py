"""What every speech encoder offers to extraction: waveforms in, hidden states of one layer out.

    waves   [48000 samples, 32000 samples]                 16 kHz, mono, float32
    encode  features_BTD (2, 149, 1024), frames_B [149, 99]   at `frame_rate` (50 Hz), zero beyond each length

`T` counts encoder frames here, before averaging. An encoder is frozen, in eval mode, and gives an utterance the
same features in any batch (float32: within 1e-5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from sm_pipeline.audio import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """How an encoder is to be loaded.

    Attributes:
        layer: to tap, from 1; None for the last. device: where to run. dtype: precision of the forward pass.
        options: those after the `?` of the encoder's name.
    """

    layer: int | None
    device: torch.device
    dtype: torch.dtype
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outline:
    """The shape of an encoder's output, from its configuration alone.

    Attributes:
        width: of the hidden states, D.
        field: samples at 16 kHz that the first frame takes; a shorter waveform has no frame.
        hop: samples from one frame to the next.
    """

    width: int
    field: int
    hop: int

    @property
    def frame_rate(self) -> float:
        """Frames per second, before averaging."""
        return SAMPLE_RATE / self.hop

    def num_frames(self, samples: np.ndarray) -> np.ndarray:
        """Number of encoder frames of waveforms, given their samples; both (B,) int64."""
        return np.maximum((np.asarray(samples, np.int64) - self.field) // self.hop + 1, 0)


class Encoder(Protocol):
    """A frozen speech encoder tapped at one layer."""

    @property
    def width(self) -> int:
        """Width D of the hidden states."""

    @property
    def frame_rate(self) -> float:
        """Frames per second of the hidden states, before averaging."""

    @property
    def layer(self) -> int:
        """The layer tapped, counted from 1."""

    def encode(self, waves: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        """Hidden states of a batch.

        Args:
            waves: float32 samples at 16 kHz, one array of shape (samples,) per utterance.

        Returns:
            features_BTD: float32, (B, T, D), on the encoder's device, zero beyond each utterance's frames.
            frames_B: valid frames of each utterance; 0 where the audio is too short for one.
        """

    def identity(self) -> dict[str, Any]:
        """The identity of the features (JSON values): id, revision, weights_sha256, family, layer, tap, width,
        compute_dtype, and options where the family has some."""

    def front_end(self) -> dict[str, Any]:
        """The audio front end: name, sample rate and settings (JSON values)."""
