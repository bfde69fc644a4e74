"""Names and other entities: how many are in the outputs, and how well, by how often training has seen them.

    mentions("He met Anna Berg in Oslo.", "en")       ["Anna Berg", "Oslo"], by the heuristic
    found = EntityMatches.of(["he met anna berg in oslo"], ["he met anna bird in oslo"], [["anna berg", "oslo"]], ...)
    found.figures(rows)
      {"entity_recall": 0.5, "entity_wer": 0.333, "entities": {"0": {"words": 1, "recall": 0.0}, ...}}

An entity is found where the output has its words one after another, each occurrence once. `entity_wer` is over the
words of entities: those that jiwer's alignment substitutes or deletes (an insertion belongs to no word). Buckets count
single words of entities by their occurrences in the transcripts that the run was trained on.

All texts are normalised before; entities as their text is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sm_pipeline.languages import language_tag
from speechmapper.measure.sums import present
from speechmapper.measure.word_errors import EQUAL, INSERT, align

BUCKETS = (("0", 0), ("1-9", 9), ("10-99", 99), ("100+", None))  # name and most occurrences
CAPITALISED_NOUNS = frozenset({"de", "lb"})  # where the heuristic would take every noun
_NOT_NAMES = frozenset({"I", "I'm", "I'll", "I've", "I'd"})
_ENDS_OF_SENTENCES = tuple('.!?:;…"”»)')
_MARKS = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True, slots=True)
class EntityMatches:
    """Entities of N predictions, and the W words of all of them.

    Attributes:
        total_N, found_N: mentions in the reference, and how many of them are in the output.
        words_N, errors_N: words of mentions by alignment, and how many are wrong; None for tasks without alignment.
        word_rows_W, word_found_W, word_bucket_W: row, whether it is in the output, and number of its bucket (None: not
            counted in training) of each word of a mention.
        source: where the entities are from.
    """

    total_N: np.ndarray
    found_N: np.ndarray
    words_N: np.ndarray | None
    errors_N: np.ndarray | None
    word_rows_W: np.ndarray
    word_found_W: np.ndarray
    word_bucket_W: np.ndarray | None
    source: str

    @classmethod
    def of(
        cls,
        references: Sequence[str],
        outputs: Sequence[str],
        entities: Sequence[Sequence[str]],
        source: str,
        aligned: bool,
        trained: Mapping[str, int] | None = None,
    ) -> EntityMatches | None:
        """Look for each reference's entities in its output; None where there are no entities.

        Args:
            aligned: whether outputs are transcripts, that can be aligned word by word.
            trained: occurrences of words in the transcripts of training; None: no buckets.
        """
        rows = [row for row, each in enumerate(entities) if each]
        if not rows:
            return None
        total, found = np.zeros(len(references), np.int64), np.zeros(len(references), np.int64)
        word_rows: list[int] = []
        word_found: list[bool] = []
        words: list[str] = []
        for row in rows:
            total[row] = len(entities[row])
            found[row] = count_found(entities[row], outputs[row])
            of_row = [word for entity in entities[row] for word in entity.split()]
            words += of_row
            word_rows += [row] * len(of_row)
            word_found += words_found(of_row, outputs[row])
        spoken, wrong = _aligned_errors(references, outputs, entities, rows) if aligned else (None, None)
        buckets = None if trained is None else np.array([bucket_of(trained.get(word, 0)) for word in words], np.int64)
        return cls(
            total, found, spoken, wrong, np.array(word_rows, np.int64), np.array(word_found, bool), buckets, source
        )

    def figures(self, rows: np.ndarray) -> dict[str, Any]:
        """`entity_recall`, `entity_wer`, `entities` by bucket, `entity_mentions` and `entity_source`; nothing where
        these predictions have no entity."""
        mentions = int(self.total_N[rows].sum())
        if not mentions:
            return {}
        wer = None
        if self.words_N is not None and self.errors_N is not None and (words := self.words_N[rows].sum()):
            wer = float(self.errors_N[rows].sum() / words)
        return present(
            {
                "entity_recall": float(self.found_N[rows].sum() / mentions),
                "entity_wer": wer,
                "entities": self._by_bucket(rows),
                "entity_mentions": mentions,
                "entity_source": self.source,
            }
        )

    def _by_bucket(self, rows: np.ndarray) -> dict[str, dict[str, float]] | None:
        if self.word_bucket_W is None:
            return None
        weight_W = np.bincount(rows, minlength=len(self.total_N))[self.word_rows_W]
        counts = np.bincount(self.word_bucket_W, weight_W, minlength=len(BUCKETS))
        hits = np.bincount(self.word_bucket_W, weight_W * self.word_found_W, minlength=len(BUCKETS))
        return {
            name: {"words": int(count), "recall": float(hit / count)}
            for (name, _), count, hit in zip(BUCKETS, counts, hits, strict=True)
            if count
        }


def mentions(text: str, language: str | None) -> list[str]:
    """The heuristic: words with a capital that are not first in a sentence; several in a row are one entity.

    Nothing in a text that is all capitals, nor in languages that write all nouns so (German, Luxembourgish).
    """
    if text[1:] == text[1:].lower() or text == text.upper():
        return []
    if language is not None and language_tag(language) in CAPITALISED_NOUNS:
        return []
    found: list[list[str]] = []
    first, open_name = True, False
    for word in text.split():
        plain = _MARKS.sub("", word).replace("\u2019", "'")
        is_name = not first and plain[:1].isupper() and plain not in _NOT_NAMES
        if is_name and open_name:
            found[-1].append(plain)
        elif is_name:
            found.append([plain])
        open_name = is_name and word[-1:].isalnum()  # a comma ends a name
        first = word.endswith(_ENDS_OF_SENTENCES) or (first and not plain)
    return [" ".join(words) for words in found]


def count_found(entities: Sequence[str], output: str) -> int:
    """How many of a reference's mentions are in the output, as whole words in a row, each occurrence once."""
    unspaced = " " not in output and not output.isascii()
    found = 0
    for entity, count in Counter(entities).items():
        pattern = re.escape(entity) if unspaced else rf"(?<!\S){re.escape(entity)}(?!\S)"
        found += min(count, len(re.findall(pattern, output)))
    return found


def words_found(words: Sequence[str], output: str) -> list[bool]:
    """Whether each word is in the output, each of the output's words once."""
    left, found = Counter(output.split()), []
    for word in words:
        found.append(left[word] > 0)
        left[word] -= 1
    return found


def bucket_of(count: int) -> int:
    """The number of the bucket of a word that training has seen so often."""
    return next(number for number, (_, most) in enumerate(BUCKETS) if most is None or count <= most)


def _aligned_errors(
    references: Sequence[str], outputs: Sequence[str], entities: Sequence[Sequence[str]], rows: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Words of entities and how many of them are wrong (N,), by the alignment of the rows that have entities."""
    words, errors = np.zeros(len(references), np.int64), np.zeros(len(references), np.int64)
    expected, found = ([texts[row] for row in rows] for texts in (references, outputs))
    for row, pairs in zip(rows, align(expected, found), strict=True):
        right = [operation == EQUAL for operation, _, _ in pairs if operation != INSERT]
        marked = _positions(references[row].split(), entities[row])
        words[row], errors[row] = len(marked), sum(not right[position] for position in marked)
    return words, errors


def _positions(words: Sequence[str], entities: Sequence[str]) -> set[int]:
    """The positions of a reference's words that belong to one of its entities."""
    marked: set[int] = set()
    for entity in set(entities):
        parts = entity.split()
        for start in range(len(words) - len(parts) + 1):
            if words[start : start + len(parts)] == parts:
                marked |= set(range(start, start + len(parts)))
    return marked
