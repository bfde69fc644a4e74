"""What a run says about a recording, as text and as JSON."""

from __future__ import annotations

import pytest

from speechmapper.answers import Answer, Segment, joined


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        ([], ""),
        (["", ""], ""),
        (["the dog", "", "ran."], "the dog ran."),
        (["你好。", "再见"], "你好。再见"),
        (["こん", "カナ"], "こんカナ"),
        (["你好", "OK"], "你好 OK"),
        (["안녕", "하세요"], "안녕 하세요"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
    ],
)
def test_texts_of_pieces_are_joined_as_they_are_written(texts, whole):
    assert joined(texts) == whole


def test_an_answer_as_json():
    answer = Answer("a b", [Segment(0.12345, 1.0, "a"), Segment(2, 3, "b", True, True)], 3.5, "en")
    assert answer.stopped_by_length
    assert answer.to_json() == {
        "text": "a b",
        "segments": [
            {"start": 0.123, "end": 1.0, "text": "a", "stopped_by_length": False, "cut_in_speech": False},
            {"start": 2, "end": 3, "text": "b", "stopped_by_length": True, "cut_in_speech": True},
        ],
        "duration": 3.5,
        "language": "en",
        "stopped_by_length": True,
    }
    assert not Answer("", [], 1.0).stopped_by_length
