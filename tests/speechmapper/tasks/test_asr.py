"""Speech recognition as a task."""

from __future__ import annotations

import pytest

from speechmapper.tasks import ASR, TASKS, Item
from tests.speechmapper.tiny import fields_of


def test_every_utterance_has_its_transcript():
    assert ASR.items(fields_of("The dog, SLEPT!", "Who?", "he", {"de": "x"})) == [Item("The dog, SLEPT!")]


def test_the_normalised_transcript_is_learned():
    assert ASR.answer(Item("The dog, SLEPT!")) == "the dog slept"


def test_score_is_the_error_rates_over_all_predictions():
    lines = [{"reference": "The dog ran.", "output": "the dog ran"}, {"reference": "a b", "output": "a c"}]
    found = ASR.score(lines)
    assert found["wer"] == pytest.approx(1 / 5)
    assert (found["utterances"], found["normalizer"]) == (2, "mms-2")


def test_answers_and_scores_follow_the_normaliser():
    old = ASR.with_normalizer("mms-1")
    assert (ASR.answer(Item("It's")), old.answer(Item("It's"))) == ("it's", "it s")
    assert old.score([{"reference": "It's", "output": "it s"}])["wer"] == 0.0
    assert ASR.score([{"reference": "It's", "output": "it s"}])["wer"] == 2.0


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ('"the dog slept', "the dog slept"),
        ('the dog slept"', "the dog slept"),
        (' " the dog slept', "the dog slept"),
        ('"he said "hi"', 'he said "hi"'),
        ('he said "hi""', 'he said "hi"'),
        ('he said "hi"', 'he said "hi"'),
        ('"the dog slept"', '"the dog slept"'),
        ('a 3" nail', 'a 3" nail'),
        ('"', ""),
        ("", ""),
    ],
)
def test_a_quote_of_the_prompt_is_no_part_of_the_transcript(written, kept):
    assert ASR.cleaned(written) == kept
    assert TASKS["st"].cleaned(written) == TASKS["sqa"].cleaned(written) == written
