"""Words and phrases that a recording may hold, and what they add to the score of a text that beam search considers.

    names.txt                    weight 4, the tokens of " toronto" being [ tor][onto]
    Toronto                      we          0
    Jean-Luc Picard              we tor      4      so far; taken back unless [onto] follows
                                 we toronto  8      of whatever follows that does not continue the word

A text's bonus is the weight times the number of its tokens that hotwords cover: whole words, without overlaps, as many
tokens as possible; a hotword that is unfinished counts as far as it goes while it may still be finished. So the bonus
depends on the text alone, and is given token by token, early enough to keep a text in the beam (the deep biasing of
WeNet and icefall; theirs takes back an unfinished match by failure links, and ends a match inside words as well).

A hotword is compared as tokens: as the tokenizer writes it at the start of a text, and behind a space. In scripts
without spaces (first letter neither upper nor lower case) it may begin and end anywhere.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sm_pipeline.text import NORMALIZER, normalise
from sm_store.errors import ConfigError

WORD_CHARACTERS = frozenset("LMN")  # general categories: letters, marks, numbers
WITHOUT_CASE = "Lo"  # general category of letters in scripts that have no upper case
PART_OF_A_CHARACTER = "\ufffd"  # how a token is decoded that holds only some bytes of a character
BEFORE = "a"  # any word: what the tokens behind it are shows how a hotword is written inside a text


@dataclass(frozen=True, slots=True)
class Hotwords:
    """Hotwords as they were given.

    Attributes:
        phrases: words or phrases; empty ones are ignored.
        source: where they are from, for messages. sha256: of the file's bytes; "" without a file.
    """

    phrases: Sequence[str]
    source: str = "hotwords"
    sha256: str = ""

    def normalised(self, normalizer: str = NORMALIZER) -> list[str]:
        """The phrases as transcripts are normalised, each once.

        Raises:
            ConfigError: one without letters and digits, or none at all.
        """
        found: dict[str, None] = {}
        for number, phrase in enumerate(self.phrases, start=1):
            text = normalise(phrase, normalizer)
            if phrase.strip() and not text:
                raise ConfigError(
                    f"{self.source}:{number}: {phrase.strip()[:40]!r} has nothing that the text normaliser "
                    f"{normalizer} keeps; write a word with letters or remove the line"
                )
            found |= {text: None} if text else {}
        if not found:
            raise ConfigError(f"{self.source}: no words there; write one word or phrase per line")
        return list(found)


def read_hotwords(path: Path) -> Hotwords:
    """The words or phrases of a UTF-8 text file, one per line.

    Raises:
        ConfigError: a file that cannot be read or is no UTF-8, has no words, or has one without letters and digits.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--hotwords {path}: cannot be read ({error.strerror}); give a text file") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"--hotwords {path}:{line}: not UTF-8; save the file as UTF-8 text") from error
    hotwords = Hotwords(text.split("\n"), f"--hotwords {path}", hashlib.sha256(raw).hexdigest())
    hotwords.normalised()
    return hotwords


@dataclass(slots=True, eq=False)
class _Node:
    """What a hotword may be after some of its tokens."""

    depth: int = 0
    is_end: bool = False
    ends_anywhere: bool = False
    following: dict[int, _Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bonus:
    """Of a text, as tokens covered by hotwords.

    Attributes:
        whole: by whole hotwords that nothing continues.
        unfinished: (where a hotword begun in the text is, `whole` before it).
    """

    whole: int = 0
    unfinished: tuple[tuple[_Node, int], ...] = ()

    @property
    def covered(self) -> int:
        """Tokens covered by whole hotwords and the one that has begun, if any."""
        return max([self.whole, *(before + node.depth for node, before in self.unfinished)])


class HotwordBonus:
    """The bonus of texts, token by token.

    Args:
        phrases: normalised. tokenizer: of the texts' tokens.
        weight: added to a text's natural log-probability for each token that a hotword covers.

    Raises:
        ConfigError: the tokenizer has no tokens for a hotword.
    """

    start = Bonus()

    def __init__(self, phrases: Sequence[str], tokenizer: Any, weight: float) -> None:
        self.weight = weight
        self._tokenizer = tokenizer
        self._first, self._later = _Node(), _Node()
        self._continues: dict[int, bool] = {}
        for phrase in phrases:
            self._add(phrase)

    def after(self, bonus: Bonus, token: int, is_first: bool) -> Bonus:
        """The bonus of a text with one more token; `is_first`: the text had none."""
        root = self._first if is_first else self._later
        begun = root.following.get(token)
        if begun is None and not bonus.unfinished:
            return bonus
        whole = self._whole(bonus, token)
        unfinished = [(node.following[token], at) for node, at in bonus.unfinished if token in node.following]
        if begun is not None:
            unfinished.append((begun, whole))
        return Bonus(whole, tuple(unfinished))

    def at_end(self, bonus: Bonus) -> float:
        """What the hotwords of a whole text add to its log-probability."""
        return self.weight * self._whole(bonus, None)

    def so_far(self, bonus: Bonus) -> float:
        """What the hotwords add while the text may go on."""
        return self.weight * bonus.covered

    def _whole(self, bonus: Bonus, token: int | None) -> int:
        """Tokens covered by whole hotwords, given the token that follows; None: the text's end."""
        ended = [
            before + node.depth
            for node, before in bonus.unfinished
            if node.is_end and (node.ends_anywhere or token is None or not self._continues_word(token))
        ]
        return max([bonus.whole, *ended])

    def _continues_word(self, token: int) -> bool:
        """Whether a token behind a letter goes on with its word."""
        if token not in self._continues:
            before, after = (self._decoded([*self._ids(BEFORE), *more]) for more in ([], [token]))
            next_character = after[len(before) :][:1]
            self._continues[token] = next_character == PART_OF_A_CHARACTER or (
                next_character != "" and unicodedata.category(next_character)[0] in WORD_CHARACTERS
            )
        return self._continues[token]

    def _add(self, phrase: str) -> None:
        anywhere = unicodedata.category(phrase[0]) == WITHOUT_CASE
        alone, behind_a_word = self._ids(phrase), self._ids_behind(f"{BEFORE} ", phrase)
        if not alone or getattr(self._tokenizer, "unk_token_id", None) in alone:
            raise ConfigError(f"hotword {phrase!r:.60}: the LLM's tokenizer has no tokens for it; remove it")
        written_later = [behind_a_word, self._ids_behind(BEFORE, phrase)] if anywhere else [behind_a_word]
        for root, ways in ((self._first, [alone, *written_later]), (self._later, written_later)):
            for ids in ways:
                node = root
                for token in ids:
                    node = node.following.setdefault(token, _Node(node.depth + 1))
                node.is_end = True
                node.ends_anywhere |= anywhere

    def _ids_behind(self, context: str, phrase: str) -> list[int]:
        """The tokens of a phrase behind a context; those of a space and the phrase where it changes the context's."""
        before, both = self._ids(context.strip()), self._ids(context + phrase)
        return both[len(before) :] if both[: len(before)] == before else self._ids(f" {phrase}")

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
