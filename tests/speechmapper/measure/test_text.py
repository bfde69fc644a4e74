"""Error rates: normalised, over the corpus, with empty references apart."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError
from speechmapper.measure.text import answer_scores, error_rates, translation_scores


def test_normalised_before_counting():
    assert error_rates(["The dog, ran."], ["the DOG ran"])["wer"] == 0.0


def test_over_the_corpus_not_the_mean_of_rates():
    rates = error_rates(["one two three four", "five"], ["one two three four", "six"])
    assert rates["wer"] == pytest.approx(1 / 5)
    assert rates["utterances"] == 2
    assert rates["normalizer"] == "mms-2"


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


def test_bleu_and_chrf_are_sacrebleus_own():
    import sacrebleu

    references, outputs = ["the dog slept by the river", "a red boat"], ["the dog slept at the river", "a red boat"]
    found = translation_scores(references, outputs, "de")
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, [references]).score)
    assert 0 < found["bleu"] < 100
    assert found["bleu_signature"].startswith("nrefs:1") and "chrF2" not in found["bleu_signature"]
    assert translation_scores([], [], None) == {"bleu": None, "chrf": None, "utterances": 0}


@pytest.mark.parametrize(
    ("reference", "output", "exact", "f1"),
    [
        ("The dog.", "dog", 1, 1),
        ("the red dog", "a dog", 0, 2 / 3),  # articles do not count: 1 of 2 and 1 of 1
        ("dog dog cat", "dog", 0, 1 / 2),
        ("dog", "", 0, 0),
        ("the", "a", 1, 1),  # nothing left on both sides
        ("nineteen", "nine", 0, 0),
    ],
)
def test_answers_are_compared_by_words(reference, output, exact, f1):
    found = answer_scores([reference], [output])
    assert (found["exact_match"], found["f1"], found["utterances"]) == (exact, pytest.approx(f1), 1)


def test_no_answers_have_no_score():
    assert answer_scores([], []) == {"exact_match": None, "f1": None, "utterances": 0}


def test_the_normaliser_is_a_choice():
    references, outputs = ["Mr. Park's colour, co-op"], ["mister park is color co op"]
    rates = {name: error_rates(references, outputs, name)["wer"] for name in ("mms-1", "mms-2", "whisper", "none")}
    assert rates == {"mms-1": 3 / 6, "mms-2": 6 / 4, "whisper": 0.0, "none": 6 / 4}
    assert error_rates(["Ein Wort."], ["Ein Wort."], "none")["normalizer"] == "none"
    assert error_rates(["Ein Wort."], ["ein wort"], "none")["wer"] == 1.0
    with pytest.raises(ConfigError, match="--normalizer upper: choose mms-2, whisper, none"):
        error_rates(["a"], ["a"], "upper")


def test_whispers_rules_for_english_are_for_english():
    references, outputs = ["Mr. Müller"] * 3, ["mister muller", "mister muller", "mr müller"]
    rates = error_rates(references, outputs, "whisper", ["en", None, "de"])
    assert (rates["wer"], rates["normalizer"]) == (0.0, "whisper")
