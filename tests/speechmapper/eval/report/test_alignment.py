"""Words beside words, and how many of them are wrong."""

from __future__ import annotations

import random

import jiwer
import pytest

from speechmapper.eval.report.alignment import MOST_WORDS, Step, aligned, edits, words_of


def test_the_steps_from_a_reference_to_an_output():
    assert aligned(["the", "dog", "ran"], ["a", "dog", "ran", "off"]) == [
        Step("substitute", "the", "a"),
        Step("equal", "dog ran", "dog ran"),
        Step("insert", "", "off"),
    ]
    assert aligned(["the", "dog", "ran"], ["the", "ran"])[1] == Step("delete", "dog", "")


def test_one_side_or_both_may_be_empty():
    assert aligned(["a", "b"], []) == [Step("delete", "a b", "")]
    assert aligned([], ["a", "b"]) == [Step("insert", "", "a b")]
    assert aligned([], []) == []
    assert edits([([], []), (["a", "b"], []), ([], ["a"]), (["a"], ["b"])]) == [0, 2, 1, 1]
    assert edits([]) == []


def test_errors_are_those_of_jiwer():
    draw = random.Random(0)
    pairs = [([draw.choice("abcd") for _ in range(9)], [draw.choice("abcd") for _ in range(7)]) for _ in range(50)]
    for (reference, output), count in zip(pairs, edits(pairs), strict=True):
        found = jiwer.process_words(" ".join(reference), " ".join(output))
        assert count == found.substitutions + found.deletions + found.insertions


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The dog, he ran.", "en", ["the", "dog", "he", "ran"]),
        ("The dog", None, ["the", "dog"]),
        ("狗 跑了。", "zh-CN", ["狗", "跑", "了"]),
        ("", "en", []),
    ],
)
def test_words_are_those_that_are_scored_and_characters_where_there_are_no_spaces(text, language, expected):
    assert words_of(text, "mms-2", language) == expected


def test_very_long_texts_are_cut():
    assert len(words_of("a " * 10**6)) == MOST_WORDS
    assert len(words_of("x" * 10**6, "none")) == 1
