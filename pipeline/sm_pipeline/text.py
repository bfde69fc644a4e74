"""The text normaliser, versioned: targets are made with it and error rates measured after it.

    normalise("“Well,” she said — it’s 5 o’clock!")  ->  "well she said it s 5 o clock"

MMS normalisation as in the method: NFKC, lower case, punctuation to space, spaces collapsed. Letters,
combining marks and numbers of every script stay; punctuation, symbols and control characters become spaces;
invisible marks inside words (soft hyphen, joiners) are removed. A change of a single output character
needs a new version in `NORMALIZER`, which is part of a store's identity.
"""

from __future__ import annotations

import unicodedata

NORMALIZER = "mms-1"
_KEPT = frozenset("LMN")  # general categories: letters, marks, numbers
_INVISIBLE = "Cf"
_ZERO_WIDTH_SPACE = "\u200b"  # of category Cf, but it separates words


def normalise(text: str) -> str:
    """Normalised text; applying it twice changes nothing more."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return " ".join("".join(map(_kept, folded)).split())


def _kept(char: str) -> str:
    category = unicodedata.category(char)
    if category[0] in _KEPT:
        return char
    return "" if category == _INVISIBLE and char != _ZERO_WIDTH_SPACE else " "
