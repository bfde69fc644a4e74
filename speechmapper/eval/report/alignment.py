"""An output beside its reference, word by word.

    aligned(["the", "dog", "ran"], ["a", "dog", "ran", "off"])
      -> [Step("substitute", "the", "a"), Step("equal", "dog ran", "dog ran"), Step("insert", "", "off")]
    edits([(["a"], ["b"]), (["a"], [])])        [1, 1]

Words are compared as they are scored: after the text normaliser. Languages that are written without spaces are compared
by character. Of very long texts the first `MOST_WORDS` words are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from sm_pipeline.languages import language_tag
from sm_pipeline.text import NORMALIZER
from speechmapper.measure.text import normaliser
from speechmapper.measure.word_errors import EQUAL, AlignedWord, align

MOST_WORDS = 300
MOST_CHARACTERS = 20_000  # of a text that is cut into words at all
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my", "yue"})

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Step:
    """Neighbouring words of one kind: `equal`, `substitute`, `delete` (reference alone) or `insert` (output alone)."""

    kind: str
    reference: str
    output: str


def words_of(text: str, normalizer: str = NORMALIZER, language: str | None = None) -> list[str]:
    """The words of a text as they are scored, at most `MOST_WORDS`; characters where its language has no spaces."""
    plain = normaliser(normalizer, language)(text[:MOST_CHARACTERS])
    spaced = language is None or language_tag(language) not in WITHOUT_SPACES
    return (plain.split() if spaced else list("".join(plain.split())))[:MOST_WORDS]


def aligned(reference: Words, output: Words) -> list[Step]:
    """The steps from a reference to an output, with as few edits as possible."""
    (pairs,) = _pairs([(reference, output)])
    steps = []
    for kind, group in groupby(pairs, key=itemgetter(0)):
        words = list(group)
        expected, found = (" ".join(each[at] or "" for each in words) if words[0][at] else "" for at in (1, 2))
        steps.append(Step(kind, expected, found))
    return steps


def edits(pairs: Sequence[tuple[Words, Words]]) -> list[int]:
    """How many words of each pair of reference and output are substituted, deleted or inserted."""
    return [sum(operation != EQUAL for operation, _, _ in found) for found in _pairs(pairs)]


def _pairs(pairs: Sequence[tuple[Words, Words]]) -> Iterator[list[AlignedWord]]:
    references, outputs = ([" ".join(pair[at]) for pair in pairs] for at in (0, 1))
    return align(references, outputs)
