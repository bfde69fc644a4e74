"""What a run says about one recording: the text, and the segments it was written in.

    Answer("the dog ran. it slept", [Segment(0.3, 17.2, "the dog ran."), Segment(18.0, 30.1, "it slept")], 31.0)

A recording of more than 25 s is answered in pieces (segmentation.py), and each piece with speech is a segment.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

_NO_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "FULLWIDTH", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True, slots=True)
class Segment:
    """The text of a stretch of a recording.

    Attributes:
        start, end: seconds in the recording at which speech begins and ends.
        stopped_by_length: the LLM had written as many tokens as it may before it came to an end.
        cut_in_speech: the piece ends at the length limit within speech, where there was no pause.
    """

    start: float
    end: float
    text: str
    stopped_by_length: bool = False
    cut_in_speech: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of a recording.

    Attributes:
        text: of all segments; empty where there is no speech.
        segments: in order, only those with speech.
        duration: of the recording in seconds.
        language: of the answer, where it was asked for; None: not known.
    """

    text: str
    segments: Sequence[Segment]
    duration: float
    language: str | None = None

    @property
    def stopped_by_length(self) -> bool:
        """Whether the text of any segment ends because it was too long."""
        return any(segment.stopped_by_length for segment in self.segments)

    def to_json(self) -> dict[str, Any]:
        """JSON values; times in seconds, rounded to milliseconds."""
        segments = [
            {**asdict(segment), "start": round(segment.start, 3), "end": round(segment.end, 3)}
            for segment in self.segments
        ]
        return {
            "text": self.text,
            "segments": segments,
            "duration": round(self.duration, 3),
            "language": self.language,
            "stopped_by_length": self.stopped_by_length,
        }


def joined(texts: Iterable[str]) -> str:
    """Texts of consecutive pieces as one; empty ones are left out."""
    kept = [text for text in texts if text]
    return "".join([*kept[:1], *(f"{space_between(one, other)}{other}" for one, other in pairwise(kept))])


def space_between(before: str, after: str) -> str:
    """What goes between two texts: a space, or nothing where both are of a script that is written without spaces."""
    ends = unicodedata.name(before[-1], ""), unicodedata.name(after[0], "")
    return "" if all(name.startswith(_NO_SPACES) for name in ends) else " "
