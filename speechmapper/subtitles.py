"""Segments as subtitles: SubRip (.srt) and WebVTT (.vtt).

    1                                        WEBVTT
    00:00:00,300 --> 00:00:17,200
    the dog ran.                             00:00:00.300 --> 00:00:17.200
                                             the dog ran.

Long texts are wrapped at 42 characters, the usual width of a subtitle. A cue holds no blank line, since that would end
it, and no "-->"; WebVTT escapes what would be markup. An empty text is no cue.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable

from speechmapper.answers import Segment

WIDTH = 42  # characters of a line


def srt(segments: Iterable[Segment]) -> str:
    """The segments as SubRip: cues numbered from 1, each followed by a blank line."""
    cues = [
        f"{number}\n{_time(segment.start, ',')} --> {_time(_end(segment), ',')}\n{_lines(segment.text)}\n\n"
        for number, segment in enumerate(filter(_has_text, segments), 1)
    ]
    return "".join(cues)


def vtt(segments: Iterable[Segment]) -> str:
    """The segments as WebVTT."""
    cues = [
        f"{_time(segment.start, '.')} --> {_time(_end(segment), '.')}\n{html.escape(_lines(segment.text), False)}\n\n"
        for segment in filter(_has_text, segments)
    ]
    return "".join(["WEBVTT\n\n", *cues])


def _has_text(segment: Segment) -> bool:
    return bool(segment.text.strip())


def _end(segment: Segment) -> float:
    """WebVTT demands that a cue ends after it begins."""
    return max(segment.end, segment.start + 0.001)


def _lines(text: str) -> str:
    plain = " ".join(text.replace("-->", "->").split())
    return "\n".join(textwrap.wrap(plain, WIDTH, break_on_hyphens=False))


def _time(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
