"""An output beside its reference, word by word.

    aligned(["the", "dog", "ran"], ["a", "dog", "ran", "off"])
      -> [Step("substitute", "the", "a"), Step("equal", "dog ran", "dog ran"), Step("insert", "", "off")]
    edits([(["a"], ["b"]), (["a"], [])])        [1, 1]

Words are compared as they are scored: after the text normaliser. Languages that are written without spaces are compared
by character. Of very long texts the first `MOST_WORDS` words are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sm_pipeline.languages import language_tag
from sm_pipeline.text import NORMALIZER
from sm_store.extras import extra_module
from speechmapper.measure.text import normaliser

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
    if not reference or not output:
        return [Step("delete" if reference else "insert", " ".join(reference), " ".join(output))] * bool(
            reference or output
        )
    (steps,) = _processed([(reference, output)]).alignments
    return [
        Step(
            step.type,
            " ".join(reference[step.ref_start_idx : step.ref_end_idx]),
            " ".join(output[step.hyp_start_idx : step.hyp_end_idx]),
        )
        for step in steps
    ]


def edits(pairs: Sequence[tuple[Words, Words]]) -> list[int]:
    """How many words of each pair of reference and output are substituted, deleted or inserted."""
    counts = [max(len(reference), len(output)) for reference, output in pairs]  # right where one of them is empty
    whole = [place for place, (reference, output) in enumerate(pairs) if reference and output]
    if whole:
        for place, steps in zip(whole, _processed([pairs[place] for place in whole]).alignments, strict=True):
            counts[place] = sum(
                max(step.ref_end_idx - step.ref_start_idx, step.hyp_end_idx - step.hyp_start_idx)
                for step in steps
                if step.type != "equal"
            )
    return counts


def _processed(pairs: Sequence[tuple[Words, Words]]) -> Any:
    jiwer = extra_module("jiwer")
    references, outputs = ([" ".join(pair[at]) for pair in pairs] for at in (0, 1))
    return jiwer.process_words(references, outputs)
