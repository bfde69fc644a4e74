"""How wrong each prediction is."""

from __future__ import annotations

import pytest

from speechmapper.eval.report.lines import measured_lines
from tests.speechmapper.eval.report.made import evaluation, line


def test_transcripts_are_ordered_by_their_wrong_words():
    lines = [line("The dog ran.", "the dog ran"), line("a b c d", "a x d", id="u"), line("", "a")]
    found = measured_lines(evaluation(lines=lines, metrics={"wer": 0.1, "normalizer": "mms-2"}))
    assert [each.errors for each in found] == [0, 2, 1]
    assert [each.badness for each in found] == [0.0, 2.0, 1.0]
    assert [each.id for each in found] == ["", "u", ""]
    assert found[0].reference == ["the", "dog", "ran"]


def test_translations_by_their_share():
    lines = [line("a b c d", "a b c x"), line("a", "x")]
    found = measured_lines(evaluation(lines=lines, metrics={"bleu": 3.0}))
    assert [each.badness for each in found] == [0.25, 1.0]


def test_answers_by_f1():
    lines = [line("the dog", "It was a dog."), line("dog", "dog")]
    found = measured_lines(evaluation(lines=lines, metrics={"f1": 0.5, "exact_match": 0.5}))
    assert [each.badness for each in found] == [pytest.approx(0.5), 0.0]


def test_the_normaliser_is_the_one_that_scored():
    lines = [line("It's five.", "it s five", lang="en")]
    for normalizer, errors in (("mms-1", 0), ("mms-2", 2)):
        found = measured_lines(evaluation(lines=lines, metrics={"wer": 0.1, "normalizer": normalizer}))
        assert found[0].errors == errors
    about = {"task": "asr", "run": {"target": {"normalizer": "mms-1"}}}
    assert measured_lines(evaluation(lines=lines, about=about, metrics={}))[0].errors == 0


def test_chinese_is_compared_by_character():
    (found,) = measured_lines(evaluation(lines=[line("我 看书", "我看报", language="zh")], metrics={"bleu": 1.0}))
    assert (found.errors, len(found.reference)) == (1, 3)
