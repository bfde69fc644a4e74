"""SubRip and WebVTT by the rules of the formats."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmapper.answers import Segment
from speechmapper.subtitles import srt, vtt

SEGMENTS = [Segment(0.3, 17.2004, "the dog ran."), Segment(18, 18, " "), Segment(3723.9996, 3725, "A <b>&\n\n--> c")]


def test_subrip():
    assert srt(SEGMENTS) == (
        "1\n00:00:00,300 --> 00:00:17,200\nthe dog ran.\n\n2\n01:02:04,000 --> 01:02:05,000\nA <b>& -> c\n\n"
    )


def test_webvtt():
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.300 --> 00:00:17.200\nthe dog ran.\n\n"
        "01:02:04.000 --> 01:02:05.000\nA &lt;b&gt;&amp; -&gt; c\n\n"
    )


def test_where_nothing_is_said():
    assert (srt([]), vtt([])) == ("", "WEBVTT\n\n")


def test_long_texts_are_wrapped():
    [_, _, *lines] = srt([Segment(0, 20, "word " * 60)]).split("\n\n")[0].splitlines()
    assert len(lines) > 5 and max(map(len, lines)) <= 42


@pytest.mark.parametrize(("write", "point"), [(srt, ","), (vtt, ".")])
@given(
    st.lists(
        st.tuples(st.floats(0, 4e5), st.floats(0, 30), st.text(st.characters(exclude_categories=("Cs",)), max_size=99))
    )
)
def test_whatever_is_said_each_cue_is_one(write, point, drawn):
    segments = [Segment(start, start + length, text) for start, length, text in drawn]
    written = write(segments).removeprefix("WEBVTT\n\n")
    cues = [cue for cue in written.split("\n\n") if cue]
    assert len(cues) == sum(bool(segment.text.strip()) for segment in segments)
    timed = re.compile(rf"\d\d+:\d\d:\d\d\{point}\d\d\d --> \d\d+:\d\d:\d\d\{point}\d\d\d")
    for number, cue in enumerate(cues, 1):
        lines = cue.split("\n")
        head = lines[1:] if write is srt else lines
        assert write is vtt or lines[0] == str(number)
        assert timed.fullmatch(head[0]) and len(head) > 1 and all(head)
        begin, end = head[0].split(" --> ")
        assert begin < end or len(begin) != len(end)
        assert "-->" not in "".join(head[1:])
