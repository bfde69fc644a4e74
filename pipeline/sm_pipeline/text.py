r"""The text normaliser, versioned: targets are made with it and error rates measured after it.

    normalise("“Well,” she said — it’s 5 o’clock (Luke 2:1)!")                  ->  "well she said it's 5 o'clock"
    normalise("“Well,” she said — it’s 5 o’clock!", "mms-2-numbers-removed")    ->  "well she said it's o'clock"
    normalise("“Well,” she said — it’s 5 o’clock!", "mms-1")                    ->  "well she said it s 5 o clock"

`mms-2` follows the rules that MMS publishes (fairseq, examples/mms/data_prep, for any language): NFKC, lower case, text
in round brackets that holds a digit removed, a typographic apostrophe inside a word made plain, vowel signs of Arabic
and invisible marks removed, punctuation to space. It differs from them in five points:

- Their list of punctuation was collected from their texts. Here every character is removed that is no letter, mark or
  number (dashes, symbols, emoji), besides those that the list names.
- Apostrophes and hyphens (and the signs that Hebrew and Tibetan write inside words) stay inside a word, nowhere else.
- Every typographic apostrophe of a word is made plain, not the last one alone.
- Numbers stay, since a transcript without its numbers cannot be learned. With `mms-2-numbers-removed`, which is their
  default, words of digits are removed, in every script and also where they are the whole text.
- Rules for single languages (Hebrew, Javanese, Mongolian, Thai) are left out: the language is not known here.

`mms-1`, which took apostrophes and hyphens for spaces, is for the stores and runs that were made with it. A change of a
single output character needs a new name, which is part of a store's identity.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sm_store.errors import ConfigError

NORMALIZER = "mms-2"  # of what is new
NUMBERS = MappingProxyType({"keep": NORMALIZER, "remove": "mms-2-numbers-removed"})
_WORD_CHARACTERS = frozenset("LMN")  # general categories: letters, marks, numbers
_INVISIBLE = "Cf"
_ZERO_WIDTH_SPACE = "\u200b"  # of category Cf, but mms-1 takes it for a space

_ENTITIES = ("&lt;", "&gt;", "&nbsp")  # left over from HTML
_APOSTROPHES = "\u2018\u2019\u201b"
_ALEF_WASLA, _ALEF = "\u0671", "\u0627"
_JOINER = "\u200d"  # a letter's form depends on it, also at the end of a word
_VOWEL_SIGNS = frozenset(map(chr, (*range(0x064B, 0x0653), 0x0656, 0x0657)))
# Letters and numbers that the published list counts as punctuation, and invisible marks that it makes a space: caron,
# tatweel, signs of repetition (Thai, Khmer, Lao, ideographic), of a long vowel (Japanese), a Bengali numerator.
_NAMED = frozenset("\u02c7\u0640\u0e46\u0ec6\u17d7\u3005\u30fc\u09f7\u2060\u206f")
_INSIDE = "'\\-\u05f3\u05f4\u0f0b"  # plain apostrophe and hyphen, geresh, gershayim, tsheg
_OUTSIDE_WORDS = re.compile(
    rf"(?<!\S)[{_INSIDE}{_JOINER}]+|[{_INSIDE}][{_INSIDE}{_JOINER}]*(?!\S)|[{_INSIDE}][{_INSIDE}{_JOINER}]+"
)


def normalise(text: str, normalizer: str = NORMALIZER) -> str:
    """Normalised text; applying it twice changes nothing more.

    Args:
        normalizer: its name, as a store, target set or run records it.

    Raises:
        ConfigError: there is none of that name.
    """
    if normalizer not in NORMALIZERS:
        raise ConfigError(
            f"text normaliser {normalizer!r:.60}: this version has {', '.join(NORMALIZERS)}; use a newer one"
        )
    return NORMALIZERS[normalizer](text)


def _mms_1(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return " ".join(folded.translate(_MMS_1).split())


def _mms_2(text: str) -> str:
    folded = _without_bracketed_digits(unicodedata.normalize("NFKC", text).lower())
    for entity in _ENTITIES:
        folded = folded.replace(entity, "")
    visible = unicodedata.normalize("NFKC", folded.translate(_REMOVED))
    return " ".join(_OUTSIDE_WORDS.sub(" ", visible.translate(_SPACED)).split())


def _mms_2_numbers_removed(text: str) -> str:
    return " ".join(word for word in _mms_2(text).split(" ") if not word.isdecimal())


NORMALIZERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"mms-1": _mms_1, NUMBERS["keep"]: _mms_2, NUMBERS["remove"]: _mms_2_numbers_removed}
)


def _without_bracketed_digits(text: str) -> str:
    """A space for each "(", up to the next ")", with a digit between; in time proportional to the text."""
    parts, at = [], 0
    while (start := text.find("(", at)) >= 0 and (end := text.find(")", start)) >= 0:
        has_digit = any(map(str.isdecimal, text[start:end]))
        parts.append(text[at:start] + " " if has_digit else text[at : end + 1])
        at = end + 1
    return "".join(parts) + text[at:]


class _Characters(dict[int, str]):
    """A table for `str.translate` that asks `rule` once for each character it meets."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self._rule(chr(code))
        return self[code]


def _visible(char: str) -> str:
    """Nothing for what mms-2 removes without a trace."""
    if char == _ALEF_WASLA:
        return _ALEF
    invisible = unicodedata.category(char) == _INVISIBLE and char != _JOINER and char not in _NAMED
    return "" if invisible or char in _VOWEL_SIGNS else char


def _spaced(char: str) -> str:
    """A space for what separates words in mms-2; signs that stand inside words are kept, whatever is around them."""
    if char in _APOSTROPHES:
        return "'"
    if char == "\u2010":  # hyphen; NFKC makes the non-breaking one this
        return "-"
    is_kept = unicodedata.category(char)[0] in _WORD_CHARACTERS and char not in _NAMED
    return char if is_kept or char in _INSIDE.replace("\\", "") or char == _JOINER else " "


def _mms_1_kept(char: str) -> str:
    category = unicodedata.category(char)
    if category[0] in _WORD_CHARACTERS:
        return char
    return "" if category == _INVISIBLE and char != _ZERO_WIDTH_SPACE else " "


_MMS_1, _REMOVED, _SPACED = _Characters(_mms_1_kept), _Characters(_visible), _Characters(_spaced)
