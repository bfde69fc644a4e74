"""Refusals and preambles of an LLM, by listed phrases: a heuristic.

    is_refusal("I'm sorry, but I cannot translate that.")      True
    is_refusal("I'm sorry, he said.")                           False: nothing is declined
    has_preamble("Sure! Here is the translation: Der Hund")    True

The phrases are in `phrases.yaml`, in ten languages; all are tried on every output, as refusals are often in English. A
reference that matches as well (someone says it in the speech) is no fault of the LLM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from speechmapper.measure.sums import present, share_of

PHRASES = Path(__file__).with_name("phrases.yaml")
START = 200  # characters in which a refusal is looked for
CLAUSE = (
    "(?:^|[.!?,;:\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f] ?(?:(?:but|aber|pero|mais|ma|mas|maar|но) )?)"  # its start
)
_BEFORE = re.compile(r"^\W+")


@dataclass(frozen=True, slots=True)
class Refusals:
    """Which of N outputs refuse to answer (`refuses_N`), or begin with words about the answer (`preamble_N`)."""

    refuses_N: np.ndarray
    preamble_N: np.ndarray

    @classmethod
    def of(cls, references: Sequence[str], outputs: Sequence[str]) -> Refusals:
        """Look for listed phrases in each output that its reference has not."""
        pairs = list(zip(references, outputs, strict=True))
        return cls(
            np.array([is_refusal(output) and not is_refusal(reference) for reference, output in pairs], bool),
            np.array([has_preamble(output) and not has_preamble(reference) for reference, output in pairs], bool),
        )

    def figures(self, rows: np.ndarray) -> dict[str, Any]:
        """`refusal_rate`."""
        return present({"refusal_rate": share_of(self.refuses_N, rows)})


def is_refusal(text: str) -> bool:
    """Whether a text declines to do what was asked."""
    return _phrases("refusals", CLAUSE).search(_folded(text[:START])) is not None


def has_preamble(text: str) -> bool:
    """Whether a text begins with words about the answer in place of the answer."""
    return _phrases("preambles", "").match(_folded(text[:START])) is not None


def _folded(text: str) -> str:
    return " ".join(_BEFORE.sub("", text).lower().replace("\u2019", "'").split())


@lru_cache(2)
def _phrases(kind: str, before: str) -> re.Pattern[str]:
    by_language = yaml.safe_load(PHRASES.read_text(encoding="utf-8"))[kind]
    listed = "|".join(f"(?:{phrase})" for phrases in by_language.values() for phrase in phrases)
    return re.compile(f"{before}(?:{listed})")
