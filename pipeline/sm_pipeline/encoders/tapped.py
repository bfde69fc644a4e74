"""What all encoder families share: removing layers after the tap, too short audio, zeros beyond each length, identity.

    tap = cut_off(model, model.encoder, final_norm=True, source=source, layer=18)      layers 19 to 24 are gone
    encoder = WhateverEncoder(model, tap, outline, request)                          a family's `TappedEncoder`

A family computes the hidden states of some waveforms; `TappedEncoder` turns that into an `Encoder`.

Shapes: B batch, T encoder frames, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sm_pipeline.devices import dtype_name
from sm_pipeline.encoders.base import EncoderRequest, Outline
from sm_pipeline.encoders.loading import weights_sha256
from sm_pipeline.models.source import ModelSource
from sm_store.errors import InputError, ModelError


@dataclass(frozen=True, slots=True)
class Tap:
    """What is tapped, and where.

    Attributes:
        source: the checkpoint. family: its `model_type`. layer: from 1. name: of the module whose output it is.
        weights_sha256: of the whole encoder as stored, whichever layer is tapped.
    """

    source: ModelSource
    family: str
    layer: int
    name: str
    weights_sha256: str


def cut_off(model: Any, stack: Any, final_norm: bool, source: ModelSource, layer: int | None) -> Tap:
    """Remove what comes after the tapped layer: layers, and the final norm unless the last layer is tapped.

    Args:
        model: the encoder, with all its weights.
        stack: its module that has `layers`.
        final_norm: whether `stack.layer_norm` follows the layers; the last layer is then tapped after it.
        layer: from 1; None for the last.

    Raises:
        ModelError: a layer that the encoder does not have.
    """
    num_layers = len(stack.layers)
    chosen = num_layers if layer is None else layer
    if not 1 <= chosen <= num_layers:
        raise ModelError(f"--layer {layer}: {source.id} has layers 1 to {num_layers}")
    digest = weights_sha256(model)
    del stack.layers[chosen:]
    name = f"encoder.layers[{chosen - 1}]"
    if final_norm and chosen == num_layers:
        name = "encoder.layer_norm"
    elif final_norm:
        stack.layer_norm = torch.nn.Identity()
    return Tap(source, model.config.model_type, chosen, name, digest)


class TappedEncoder(ABC):
    """`Encoder` over one of Hugging Face's models, cut off after the tap.

    Args:
        model: up to the tap, on the CPU.
        tap: what it is. outline: its width and frames. request: where to run it, and in which precision.
    """

    def __init__(self, model: torch.nn.Module, tap: Tap, outline: Outline, request: EncoderRequest) -> None:
        self.layer = tap.layer
        self.width = outline.width
        self.frame_rate = outline.frame_rate
        self._model: Any = model.to(device=request.device, dtype=request.dtype).eval().requires_grad_(False)
        self._tap = tap
        self._outline = outline
        self._device = request.device
        self._dtype = request.dtype

    @abstractmethod
    def _hidden_states(self, waves: list[np.ndarray], frames_B: list[int]) -> torch.Tensor:
        """The tap's output (B, T, D) of waveforms that have a frame each, T being the longest's; what is beyond an
        utterance's own frames does not matter."""

    @abstractmethod
    def front_end(self) -> dict[str, Any]:
        """See `Encoder.front_end`."""

    @torch.inference_mode()
    def encode(self, waves: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        """See `Encoder.encode`."""
        unscaled = [str(wave.dtype) for wave in waves if wave.dtype.kind != "f"]
        if unscaled:
            raise InputError(f"samples of type {unscaled[0]}: give float32 in -1..1, as sm_pipeline.audio reads them")
        frames_B = self._outline.num_frames(np.array([len(wave) for wave in waves])).tolist()
        features_BTD = torch.zeros(len(waves), max(frames_B, default=0), self.width, device=self._device)
        rows = [row for row, frames in enumerate(frames_B) if frames]
        if not rows:
            return features_BTD, frames_B
        hidden_BTD = self._hidden_states([waves[row] for row in rows], [frames_B[row] for row in rows])
        if hidden_BTD.shape[1:] != features_BTD.shape[1:]:
            raise ModelError(
                f"{self._tap.source.id}: {self._tap.name} gives (T, D) {tuple(hidden_BTD.shape[1:])} instead of "
                f"{tuple(features_BTD.shape[1:])}; this transformers version is not supported"
            )
        for row, hidden_TD in zip(rows, hidden_BTD, strict=True):
            features_BTD[row, : frames_B[row]] = hidden_TD[: frames_B[row]]
        return features_BTD, frames_B

    def _mask(self, frames_B: Sequence[int]) -> torch.Tensor:
        """Which frames are an utterance's own: bool, (B, T)."""
        lengths_B = torch.tensor(frames_B, device=self._device)
        return torch.arange(max(frames_B), device=self._device) < lengths_B.unsqueeze(1)

    def identity(self) -> dict[str, Any]:
        return {
            "id": self._tap.source.id,
            "revision": self._tap.source.revision,
            "weights_sha256": self._tap.weights_sha256,
            "family": self._tap.family,
            "layer": self.layer,
            "tap": self._tap.name,
            "width": self.width,
            "compute_dtype": dtype_name(self._dtype),
        }
