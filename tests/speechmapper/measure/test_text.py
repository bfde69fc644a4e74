"""Error rates: normalised, over the corpus, with empty references apart."""

from __future__ import annotations

import pytest

from speechmapper.eval.asr import score_asr
from speechmapper.measure.text import error_rates


def test_normalised_before_counting():
    assert error_rates(["The dog, ran."], ["the DOG ran"])["wer"] == 0.0


def test_over_the_corpus_not_the_mean_of_rates():
    rates = error_rates(["one two three four", "five"], ["one two three four", "six"])
    assert rates["wer"] == pytest.approx(1 / 5)
    assert rates["utterances"] == 2
    assert rates["normalizer"] == "mms-1"


def test_character_errors():
    assert error_rates(["abcd"], ["abxd"])["cer"] == pytest.approx(1 / 4)


def test_an_empty_output_is_all_deletions_and_a_long_one_goes_beyond_one():
    assert error_rates(["a b"], [""])["wer"] == 1.0
    assert error_rates(["a"], ["a b c d"])["wer"] == 3.0


def test_references_without_words_are_counted_apart():
    rates = error_rates(["...", "a b"], ["noise", "a b"])
    assert (rates["wer"], rates["utterances"], rates["without_reference"]) == (0.0, 1, 1)
    assert error_rates(["?"], ["x"])["wer"] is None
    assert error_rates([], [])["utterances"] == 0


def test_relative_mse_is_weighted_by_positions():
    lines = [
        {"reference": "a b c", "output": "a b c", "relative_mse": 0.2, "positions": 4},
        {"reference": "a", "output": "a", "relative_mse": 0.5, "positions": 2},
        {"reference": "b", "output": "b", "relative_mse": None, "positions": 0},
    ]
    metrics = score_asr(lines)
    assert metrics["relative_mse"] == pytest.approx((0.2 * 4 + 0.5 * 2) / 6)
    assert "relative_mse" not in score_asr([{"reference": "a", "output": "a"}])
