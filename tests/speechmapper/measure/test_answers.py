"""Exact match and F1 of each answer; the cases by hand are in test_text.py."""

from __future__ import annotations

import numpy as np
import pytest

from speechmapper.measure.answers import AnswerMatches


def test_each_answer_has_its_own_values_and_parts_are_their_means():
    found = AnswerMatches.of(["The dog.", "the red dog", "cat"], ["dog", "a dog", "bird"])
    assert found.exact_N2[:, 0].tolist() == [1, 0, 0]
    assert found.f1_N2[:, 0].tolist() == pytest.approx([1, 2 / 3, 0])
    assert found.figures(np.array([0, 1])) == {"exact_match": 0.5, "f1": pytest.approx(5 / 6), "utterances": 2}
    assert found.figures(np.array([], np.int64)) == {"exact_match": None, "f1": None, "utterances": 0}
