"""Recordings as they are given, read and cut into pieces, and pieces in batches of similar length.

heard = hear("talk.flac", 16_000)       Heard("talk.flac", 31.0, spoken=(Piece(0, ...), Piece(281600, ...)))
batches([25.0, 3.0, 24.0])              [[0, 2], [1]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sm_pipeline.audio import SAMPLE_RATE
from sm_store.errors import InputError
from speechmapper.audio_features import Audio, audio_name, load_wave
from speechmapper.loader.epoch import Budget, batches_by_length
from speechmapper.segmentation import Piece, pieces

LONGEST_RECORDING = 6 * 3600.0  # seconds; an hour takes 0.23 GB of samples
SHORTEST_RECORDING = 0.2  # seconds
FRAME_RATE = 25.0  # Hz, of the frames that a batch is limited by
BATCH = Budget(frames=4096, max_utterances=16)  # of pieces, after padding


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording that was read.

    Attributes:
        name: for messages. seconds: its length. spoken: its pieces with speech, in order.
    """

    name: str
    seconds: float
    spoken: tuple[Piece, ...]


def hear(audio: Audio, sampling_rate: int) -> Heard:
    """Read one recording and find the speech in it.

    Raises:
        InputError: it cannot be read, or is too short.
    """
    name = audio_name(audio)
    samples = load_wave(audio, None, LONGEST_RECORDING, sampling_rate)
    spoken = tuple(piece for piece in pieces(samples) if piece.speech) if len(samples) else ()
    seconds = len(samples) / SAMPLE_RATE
    if not spoken and seconds < SHORTEST_RECORDING:
        raise too_short(name)
    return Heard(name, seconds, spoken)


def too_short(name: str) -> InputError:
    """The error for a recording without room for a vector."""
    return InputError(f"{name}: too short to transcribe; give at least {SHORTEST_RECORDING} s of audio")


def batches(seconds: Sequence[float]) -> list[list[int]]:
    """Pieces of these lengths in batches of similar length, the longest first, as their numbers."""
    frames = np.maximum((np.asarray(seconds, float) * FRAME_RATE).astype(np.int64), 1)
    return [batch.tolist() for batch in batches_by_length(np.arange(len(frames)), frames, BATCH)]
