"""Errors of each utterance and aligned words, against jiwer's own figures and by hand."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from speechmapper.measure.word_errors import WordErrors, align, aligned_words

WORDS = ["dog", "cat", "ran", "slept", "the", "a", "red"]


def random_texts(seed: int, count: int = 200) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(count)]
    outputs = [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(count)]
    return references, outputs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rates_are_jiwers(seed):
    references, outputs = random_texts(seed)
    errors = WordErrors.of(references, outputs, "none")
    own, words = errors.figures(), jiwer.process_words(references, outputs)
    assert own["wer"] == pytest.approx(words.wer, rel=1e-12)
    assert own["cer"] == pytest.approx(jiwer.cer(references, outputs), rel=1e-12)
    total = words.hits + words.substitutions + words.deletions
    shares = errors.details(np.arange(len(references)))
    assert shares == pytest.approx(
        {name: getattr(words, name) / total for name in ("substitutions", "deletions", "insertions")}
    )
    assert sum(shares.values()) == pytest.approx(own["wer"])


def test_each_utterance_has_its_own_counts():
    errors = WordErrors.of(["the dog ran", "", "a cat"], ["a dog", "noise", "a big cat"], "mms-2")
    assert errors.edits_N3.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert errors.words_N2.tolist() == [[2, 3], [0, 0], [1, 2]]
    assert errors.figures() == {
        "wer": 3 / 5,
        "cer": pytest.approx((jiwer.cer("the dog ran", "a dog") * 11 + 4) / 16),
        "utterances": 2,
        "normalizer": "mms-2",
        "without_reference": 1,
    }
    assert errors.figures(np.array([2]))["wer"] == 1 / 2
    assert errors.figures(np.array([1]))["wer"] is None
    assert errors.details(np.array([1])) == {}
    assert len(WordErrors.of([], [], "none")) == 0


def test_aligned_words_by_hand():
    assert aligned_words("the dog ran", "a dog") == [
        ("substitute", "the", "a"),
        ("equal", "dog", "dog"),
        ("delete", "ran", None),
    ]
    assert aligned_words("a dog", "a big red dog") == [
        ("equal", "a", "a"),
        ("insert", None, "big"),
        ("insert", None, "red"),
        ("equal", "dog", "dog"),
    ]
    assert aligned_words("", "so it is") == [("insert", None, "so"), ("insert", None, "it"), ("insert", None, "is")]
    assert aligned_words("dog", "") == [("delete", "dog", None)]
    assert aligned_words("", "") == []


def test_an_alignment_has_both_texts_in_order_whatever_separates_their_words():
    references, outputs = random_texts(7)
    outputs[3], references[4] = "dog\ncat\u2028ran\tslept", ""
    for reference, output, pairs in zip(references, outputs, align(references, outputs), strict=True):
        assert [one for _, one, _ in pairs if one is not None] == reference.split()
        assert [two for _, _, two in pairs if two is not None] == output.split()
        assert all((one == two) == (operation == "equal") for operation, one, two in pairs)
