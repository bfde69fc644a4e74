"""Word and character errors of each utterance, and the words as they are aligned (jiwer).

    WordErrors.of(["the dog ran"], ["a dog"])      1 substitution, 1 deletion of 3 words; 6 of 11 characters
      .figures()["wer"]                            0.667
      .details(rows)                               {"insertions": 0.0, "deletions": 0.333, "substitutions": 0.333}
    aligned_words("the dog ran", "a dog")
      [("substitute", "the", "a"), ("equal", "dog", "dog"), ("delete", "ran", None)]

Texts are normalised before (`speechmapper/measure/text.py`). An utterance whose reference has no word is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sm_store.extras import extra_module
from speechmapper.measure.sums import ScoredLines, Sums, ratio

EQUAL, SUBSTITUTE, DELETE, INSERT = "equal", "substitute", "delete", "insert"
AlignedWord = tuple[str, str | None, str | None]  # operation, word of the reference, word of the output
_Operation = tuple[str, int, int, int, int]  # its words: start and end in the reference, start and end in the output
_EDITS = (SUBSTITUTE, DELETE, INSERT)
_SHARES = ("substitutions", "deletions", "insertions")


@dataclass(frozen=True, slots=True)
class WordErrors(ScoredLines):
    """Errors of N utterances.

    Attributes:
        edits_N3: words substituted, deleted, inserted; zero, as all counts, where the reference has no word.
        words_N2: edits, and words of the reference. chars_N2: the same of characters, spaces included.
        normalizer: name of the normaliser that the texts went through.
    """

    edits_N3: np.ndarray
    words_N2: np.ndarray
    chars_N2: np.ndarray
    normalizer: str

    @classmethod
    def of(cls, references: Sequence[str], outputs: Sequence[str], normalizer: str) -> WordErrors:
        """Count the errors of normalised outputs against normalised references."""
        distance = extra_module("rapidfuzz.distance").Levenshtein.distance
        rows = [row for row, reference in enumerate(references) if reference]
        expected, found = ([texts[row] for row in rows] for texts in (references, outputs))
        edits, words, chars = (np.zeros((len(references), width), np.int64) for width in (3, 2, 2))
        for row, operations in zip(rows, _operations(expected, found), strict=True):
            for operation, start, end, found_start, found_end in operations:
                words[row, 1] += end - start
                if operation != EQUAL:
                    edits[row, _EDITS.index(operation)] += max(end - start, found_end - found_start)
        words[:, 0] = edits.sum(axis=1)
        chars[rows, 0] = [distance(one, two) for one, two in zip(expected, found, strict=True)]
        chars[rows, 1] = [len(text) for text in expected]
        return cls(edits, words, chars, normalizer)

    def sums(self) -> Mapping[str, Sums]:
        """`wer` and `cer`: fractions of the references' words and characters."""
        return {
            "wer": Sums(self.words_N2, ratio, lower_is_better=True),
            "cer": Sums(self.chars_N2, ratio, lower_is_better=True),
        }

    def beside(self, rows: np.ndarray) -> dict[str, Any]:
        """`utterances` that have a reference, `normalizer`, and `without_reference` if there are others."""
        scored = int((self.words_N2[rows, 1] > 0).sum())
        without = {"without_reference": len(rows) - scored} if scored < len(rows) else {}
        return {"utterances": scored, "normalizer": self.normalizer, **without}

    def details(self, rows: np.ndarray) -> dict[str, Any]:
        """`substitutions`, `deletions`, `insertions` as shares of the references' words; they add up to `wer`."""
        words = int(self.words_N2[rows, 1].sum())
        if not words:
            return {}
        counts = self.edits_N3[rows].sum(axis=0)
        return {name: float(count) / words for name, count in zip(_SHARES, counts, strict=True)}


def aligned_words(reference: str, output: str) -> list[AlignedWord]:
    """The words of two normalised texts in pairs, each with its operation.

    Returns:
        (`equal` | `substitute` | `delete` | `insert`, word of the reference or None, word of the output or None), in
        the order of the texts: an alignment with the fewest edits, as jiwer has it.
    """
    return next(align([reference], [output]))


def align(references: Sequence[str], outputs: Sequence[str]) -> Iterator[list[AlignedWord]]:
    """`aligned_words` of each pair of normalised texts."""
    for reference, output, operations in zip(references, outputs, _operations(references, outputs), strict=True):
        expected, found = reference.split(), output.split()
        pairs: list[AlignedWord] = []
        for operation, start, end, found_start, found_end in operations:
            for step in range(max(end - start, found_end - found_start)):
                one = expected[start + step] if operation != INSERT else None
                two = found[found_start + step] if operation != DELETE else None
                pairs.append((operation, one, two))
        yield pairs


def _operations(references: Sequence[str], outputs: Sequence[str]) -> Iterator[list[_Operation]]:
    """jiwer's alignment of each pair."""
    jiwer = extra_module("jiwer")
    rows = [row for row, reference in enumerate(references) if reference.split()]  # jiwer takes no empty reference
    texts = ([" ".join(each[row].split()) for row in rows] for each in (references, outputs))
    alignments = iter(jiwer.process_words(*texts).alignments if rows else ())
    for reference, output in zip(references, outputs, strict=True):
        if reference.split():
            yield [
                (each.type, each.ref_start_idx, each.ref_end_idx, each.hyp_start_idx, each.hyp_end_idx)
                for each in next(alignments)
            ]
        else:
            yield [(INSERT, 0, 0, 0, len(output.split()))]
