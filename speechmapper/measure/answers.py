"""Exact match and token F1 of answers, as SQuAD compares them (Rajpurkar et al. 2016).

    AnswerMatches.of(["the red dog"], ["a dog"]).figures()      {"exact_match": 0.0, "f1": 0.667, "utterances": 1}

Words are compared in lower case, without punctuation and English articles; both metrics are means over the answers.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechmapper.measure.sums import ScoredLines, Sums, ratio

ARTICLES = ("a", "an", "the")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class AnswerMatches(ScoredLines):
    """How well each of N answers matches: `exact_N2` (0 or 1, and 1) and `f1_N2` (0 to 1, and 1)."""

    exact_N2: np.ndarray
    f1_N2: np.ndarray

    @classmethod
    def of(cls, references: Sequence[str], outputs: Sequence[str]) -> AnswerMatches:
        """Compare outputs with references."""
        pairs = [(_squad_words(one), _squad_words(two)) for one, two in zip(references, outputs, strict=True)]
        exact = [float(expected == found) for expected, found in pairs]
        f1 = [_token_f1(expected, found) for expected, found in pairs]
        return cls(*(np.stack([np.array(values), np.ones(len(pairs))], axis=1) for values in (exact, f1)))

    def sums(self) -> Mapping[str, Sums]:
        """`exact_match` and `f1`."""
        return {"exact_match": Sums(self.exact_N2, ratio), "f1": Sums(self.f1_N2, ratio)}

    def beside(self, rows: np.ndarray) -> dict[str, Any]:
        """`utterances`: the answers."""
        return {"utterances": len(rows)}


def _squad_words(text: str) -> list[str]:
    return [word for word in text.lower().translate(_PUNCTUATION).split() if word not in ARTICLES]


def _token_f1(expected: list[str], found: list[str]) -> float:
    if not expected or not found:
        return float(expected == found)
    shared = sum((Counter(expected) & Counter(found)).values())
    return 2 * shared / (len(expected) + len(found))
