"""From audio to projector input, as extraction did it for the store a run was trained on.

    listening = load_listening(projector.config.trained_for, None, "auto")
    features_BTD, frames_B = listening.features([load_wave("talk.flac")])

Encoder, layer, averaging and stored precision come from what the run recorded; an encoder with other weights
is refused. Extraction's own functions are used, so an utterance has the features it would have in the store.

Shapes: B batch, T frames after averaging, D encoder width.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.audio import RATES, SAMPLE_RATE, Cut, as_float_samples, file_seconds, read_audio, resampled
from sm_pipeline.config import MAX_SECONDS
from sm_pipeline.encoders import Encoder, load_encoder
from sm_pipeline.extraction.encoding import store_features
from sm_store.errors import InputError, SampleError
from sm_store.identity import diff_json, require_same
from speechmapper.loader.prefetch import as_tensor
from speechmapper.saved_projector import model_name, recorded_model

Audio = str | Path | IO[bytes] | np.ndarray | torch.Tensor  # a file by its path or open in binary mode, or samples (n,)
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


def load_wave(
    audio: Audio, cut: Cut | None = None, max_seconds: float = MAX_SECONDS, sampling_rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Samples (n,) float32 at 16 kHz.

    Args:
        audio: a file, or one open in binary mode, which is read from where it stands; or samples (n,): floats, or
            integers of 8, 16 or 32 bits as in a WAV file, which are scaled to -1..1.
        max_seconds: longest recording that is read.
        sampling_rate: of samples, in Hz; a file says its own.

    Raises:
        InputError: a file that cannot be read, or an array that is not one channel of finite samples.
    """
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu().numpy()
    if isinstance(audio, np.ndarray):
        return _array_wave(audio, max_seconds, sampling_rate)
    if isinstance(audio, str | Path):
        return _file_wave(Path(audio), str(audio), cut, max_seconds)
    if not hasattr(audio, "read") or isinstance(audio, io.TextIOBase):
        kind = type(audio).__name__
        raise InputError(
            f"audio of type {kind}: give a file, or an array or tensor (n,) at {SAMPLE_RATE} Hz or with its "
            "sampling_rate, or a file open in binary mode"
        )
    with tempfile.NamedTemporaryFile() as copy:  # so that its header is checked as that of any file
        shutil.copyfileobj(audio, copy)
        copy.flush()
        return _file_wave(Path(copy.name), audio_name(audio), cut, max_seconds)


def audio_name(audio: Audio) -> str:
    """What a recording is called in messages."""
    if isinstance(audio, str | Path):
        return str(audio)
    return "the samples" if isinstance(audio, np.ndarray | torch.Tensor) else str(getattr(audio, "name", "the file"))


def require_audio_file(path: Path) -> float:
    """Check by its first bytes and header, without decoding it, that a file is audio; returns its seconds, about.

    Raises:
        InputError: as `load_wave`.
    """
    seconds = file_seconds(path)
    if seconds is None:
        load_wave(path)  # raises with the reason
        return 0.0
    return seconds


def _array_wave(samples: np.ndarray, max_seconds: float, rate: int) -> np.ndarray:
    floats = as_float_samples(samples)
    if floats.ndim != 1 or not np.isfinite(floats).all():
        raise InputError(f"audio array of shape {samples.shape}: give finite mono samples (n,) at {rate} Hz")
    if not (isinstance(rate, int) and RATES[0] <= rate <= RATES[1]):
        raise InputError(f"sampling_rate {rate}: give a whole number of Hz from {RATES[0]} to {RATES[1]}")
    if len(floats) > max_seconds * rate:
        raise InputError(f"the samples: longer than {max_seconds:g} s; give shorter pieces")
    wave = resampled(floats, rate)
    return wave if wave.flags.writeable else wave.copy()  # torch warns of arrays that are read only


def _file_wave(path: Path, name: str, cut: Cut | None, max_seconds: float) -> np.ndarray:
    """Samples of a file that messages call `name`."""
    try:
        return read_audio(path, cut, max_seconds).samples
    except SampleError as error:
        raise InputError(f"{name}: {_fault(error, path.name, max_seconds)}") from error


def _fault(error: SampleError, name: str, max_seconds: float) -> str:
    """What is wrong with a file, without its name and the flags of extraction."""
    if error.reason == "too_long":
        return f"longer than {max_seconds:g} s; cut it into shorter files"
    detail = re.sub(r"Error opening .+?: ", "", error.detail.removeprefix(f"{name}: "))  # libsndfile's words
    return f"{error.reason.replace('_', ' ')}: {detail}"
