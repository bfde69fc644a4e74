"""From audio to projector input, as extraction did it for the store a run was trained on.

    listening = load_listening(projector.config.trained_for, None, "auto")
    features_BTD, frames_B = listening.features([load_wave("talk.flac")])

Encoder, layer, averaging and stored precision come from what the run recorded; an encoder with other weights
is refused. Extraction's own functions are used, so an utterance has the features it would have in the store.

Shapes: B batch, T frames after averaging, D encoder width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.audio import SAMPLE_RATE, Cut, as_float_samples, read_audio
from sm_pipeline.config import MAX_SECONDS
from sm_pipeline.encoders import Encoder, load_encoder
from sm_pipeline.extraction.encoding import store_features
from sm_store.errors import InputError, SampleError
from sm_store.identity import diff_json, require_same
from speechmapper.loader.prefetch import as_tensor
from speechmapper.saved_projector import model_name, recorded_model

Audio = str | Path | np.ndarray | torch.Tensor  # a file, or samples (n,) at 16 kHz
WHERE_AND_HOW = (
    "id",
    "revision",
    "compute_dtype",
)  # where an encoder was found, how it is run: not what it is


@dataclass(frozen=True, slots=True)
class Listening:
    """The encoder, how many of its frames are averaged into one, and the stored precision."""

    encoder: Encoder
    average: int
    dtype: str

    def features(self, waves: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, T, D) of some waveforms, zero beyond each length, and the lengths (B,)."""
        hidden_BTD, frames_B = self.encoder.encode(waves)
        rows = store_features(hidden_BTD, frames_B, self.average, self.dtype)
        features_BTD = pad_sequence([as_tensor(row) for row in rows], batch_first=True)
        return features_BTD, torch.tensor([len(row) for row in rows])


def load_listening(made: Mapping[str, Any], encoder: str | None, device: str) -> Listening:
    """The encoder a run was trained for.

    Args:
        made: the projector's `trained_for`.
        encoder: where it is, if not where it was at extraction.

    Raises:
        ModelError: no such encoder. IdentityMismatch: another one.
    """
    recorded = made["encoder"]
    name = model_name(recorded)
    if encoder is None:
        with recorded_model(name, "the encoder of this run", "name where it is now with --encoder"):
            loaded = load_encoder(name, recorded["layer"], device)
    else:
        loaded = load_encoder(encoder, recorded["layer"], device)
    mine, theirs = dict(loaded.identity()), dict(recorded)
    for names in (mine, theirs):
        for place in WHERE_AND_HOW:
            names.pop(place, None)
    require_same(diff_json(mine, theirs), f"encoder {encoder or recorded['id']}")
    return Listening(loaded, made["average"], made["target"]["dtype"])


def load_wave(audio: Audio, cut: Cut | None = None) -> np.ndarray:
    """Samples (n,) float32 at 16 kHz.

    Args:
        audio: a file, or samples (n,) at 16 kHz: floats, or integers of 8, 16 or 32 bits as in a WAV file, which are
            scaled to -1..1.

    Raises:
        InputError: a file that cannot be read, or an array that is not one channel of finite samples.
    """
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu().numpy()
    if isinstance(audio, np.ndarray):
        samples = as_float_samples(audio)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise InputError(f"audio array of shape {audio.shape}: give finite mono samples (n,) at {SAMPLE_RATE} Hz")
        return samples
    if not isinstance(audio, str | Path):
        kind = type(audio).__name__
        raise InputError(f"audio of type {kind}: give a file, or an array or tensor (n,) at {SAMPLE_RATE} Hz")
    try:
        return read_audio(Path(audio), cut).samples
    except SampleError as error:
        raise InputError(f"{audio}: {_fault(error, Path(audio).name)}") from error


def _fault(error: SampleError, name: str) -> str:
    """What is wrong with a file, without its name and the flags of extraction."""
    if error.reason == "too_long":
        return f"longer than {MAX_SECONDS:g} s; cut it into shorter files"
    detail = re.sub(r"Error opening .+?: ", "", error.detail.removeprefix(f"{name}: "))  # libsndfile's words
    return f"{error.reason.replace('_', ' ')}: {detail}"
