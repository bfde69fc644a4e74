"""Outputs that repeat themselves or run on: duplicated n-grams, compressibility, the length limit, length ratios.

    "the dog ran to the the dog ran to the"      the 5-gram "the dog ran to the" twice: repeats
    "ha " * 40                                   120 bytes compressed to 12: ratio 10, above Whisper's 2.4
    reference of 10 characters, output of 25     length ratio 2.5

A 5-gram counts where the output has it more often than once and more often than the reference, so that speech that
repeats itself is no fault. Texts in scripts without spaces are cut into pieces of one character, ten of which count.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechmapper.measure.sums import present, share_of

WORDS_REPEATED, CHARACTERS_REPEATED = 5, 10
COMPRESSION_LIMIT = 2.4  # Whisper's compression_ratio_threshold (Radford et al. 2022)
LENGTH = "length"  # value of `stop` where the limit of new tokens ended the output
PERCENTILES = (5, 50, 95)
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


@dataclass(frozen=True, slots=True)
class Repetition:
    """Of N predictions.

    Attributes:
        repeats_N: whether the output repeats an n-gram. compressible_N: whether it compresses by more than 2.4.
        has_stop_N, at_limit_N: whether it is known what ended the output, and whether it was the limit.
        ratio_N: characters of the output over those of the reference; not a number without a reference.
    """

    repeats_N: np.ndarray
    compressible_N: np.ndarray
    has_stop_N: np.ndarray
    at_limit_N: np.ndarray
    ratio_N: np.ndarray

    @classmethod
    def of(cls, references: Sequence[str], outputs: Sequence[str], stops: Sequence[str | None]) -> Repetition:
        """Look at each output; `stops`: `end`, `length`, or None where it is not known."""
        pairs = list(zip(references, outputs, strict=True))
        return cls(
            repeats_N=np.array([repeats(output, reference) for reference, output in pairs], bool),
            compressible_N=np.array([compression_ratio(output) > COMPRESSION_LIMIT for output in outputs], bool),
            has_stop_N=np.array([stop is not None for stop in stops], bool),
            at_limit_N=np.array([stop == LENGTH for stop in stops], bool),
            ratio_N=np.array(
                [len(output) / len(reference) if reference else np.nan for reference, output in pairs], np.float64
            ),
        )

    def figures(self, rows: np.ndarray) -> dict[str, Any]:
        """`repetition_rate`, `compression_rate`, `stopped_by_length_rate`, and `length_ratio` with p5, p50 and p95."""
        ratios = self.ratio_N[rows]
        ratios = ratios[~np.isnan(ratios)]
        percentiles = np.percentile(ratios, PERCENTILES) if len(ratios) else ()
        named = {f"p{number}": float(value) for number, value in zip(PERCENTILES, percentiles, strict=False)}
        return present(
            {
                "repetition_rate": share_of(self.repeats_N, rows),
                "compression_rate": share_of(self.compressible_N, rows),
                "stopped_by_length_rate": share_of(self.at_limit_N, rows, self.has_stop_N),
                "length_ratio": named or None,
            }
        )


def repeats(output: str, reference: str = "") -> bool:
    """Whether some n-gram is in the output more often than once, and more often than in the reference."""
    found = _repeated(output)
    if not found:
        return False
    expected = Counter(_grams(reference))
    return any(count > expected[gram] for gram, count in found.items())


def compression_ratio(text: str) -> float:
    """Bytes of a text (UTF-8) over its bytes compressed by zlib, as Whisper has it; 0 of an empty text."""
    data = text.encode(errors="replace")
    return len(data) / len(zlib.compress(data))


def _repeated(text: str) -> dict[tuple[str, ...], int]:
    grams = _grams(text)
    if len(set(grams)) == len(grams):
        return {}
    return {gram: count for gram, count in Counter(grams).items() if count > 1}


def _grams(text: str) -> list[tuple[str, ...]]:
    folded = text.casefold()
    unspaced = _UNSPACED.search(folded) is not None
    units = [each for each in folded if not each.isspace()] if unspaced else folded.split()
    size = CHARACTERS_REPEATED if unspaced else WORDS_REPEATED
    return list(zip(*(units[start:] for start in range(size)), strict=False))
