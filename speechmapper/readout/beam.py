"""Reading a CTC projector by prefix beam search, with hotwords.

    position      0       1         paths of the text ""     - -                          0.36, the most probable path
    blank -       0.6     0.6       paths of the text "a"    a a, a -, - a                0.16 + 0.24 + 0.24 = 0.64
    token a       0.4     0.4

A CTC projector gives each position a probability of every token and of the blank. Many paths say one text (repeats are
merged, blanks dropped); greedy reading takes the most probable path, beam search the most probable text among the
`width` best prefixes that it keeps at each position (Graves et al. 2006; Hannun et al. 2014). Of each prefix it keeps
apart the paths that end in a blank and in a token, since a repeated token is a second one only behind a blank. Only the
most probable tokens of each position are tried; their probabilities are exact (`heads/rows.py`).

    beam_search(top_tokens, 16, hotwords)    ->  [Hypothesis((284, 1123), -0.31, 8.0), ...]

Libraries that do not fit (November 2026): pyctcdecode 0.5.0 requires numpy below 2 and takes a vocabulary with "##" for
WordPiece; ctc-beam-decoder 0.2.0 is one binary for x86-64 with glibc 2.35, without source; both need the scores of all
tokens. flashlight-text 0.0.7 has no wheels beyond Python 3.12 and no hotwords; kenlm, for n-grams, none at all.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

from sm_store.errors import ConfigError
from speechmapper.heads.rows import TopTokens
from speechmapper.readout.hotwords import Bonus, HotwordBonus, Hotwords

WIDTH = 16  # our own
WEIGHT = 4.0  # our own (docs/objectives.md)
TOP_TOKENS = 20  # of each position that are tried; our own
NEVER = -math.inf
NO_HOTWORDS = HotwordBonus((), None, 0.0)


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """How a CTC projector is read by beam search.

    Attributes:
        width: prefixes kept at each position.
        hotwords: what the recordings may hold; None: nothing in particular.
        weight: added to a text's natural log-probability for each token that a hotword covers.

    Raises:
        ConfigError: a width below 1, a weight that is not above 0.
    """

    width: int = WIDTH
    hotwords: Hotwords | None = None
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"--beam {self.width}: give 1 or more")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"--hotword-weight {self.weight}: give a number above 0")

    def identity(self) -> dict[str, Any]:
        """What decides the texts, as JSON values."""
        if self.hotwords is None:
            return {"beam": self.width}
        count = sum(1 for phrase in self.hotwords.phrases if phrase.strip())
        return {
            "beam": self.width,
            "hotwords": {"sha256": self.hotwords.sha256, "count": count, "weight": self.weight},
        }


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that an utterance may say.

    Attributes:
        tokens: its token ids. log_prob: natural logarithm of the probability of all its paths that were followed.
        bonus: what its hotwords add.
    """

    tokens: tuple[int, ...]
    log_prob: float
    bonus: float = 0.0

    @property
    def score(self) -> float:
        """By which texts are compared."""
        return self.log_prob + self.bonus


@dataclass(slots=True)
class _Prefix:
    """Log-probabilities of the paths of a prefix that end in a blank and in its last token."""

    bonus: Bonus
    blank: float = NEVER
    token: float = NEVER

    @property
    def total(self) -> float:
        """Of both kinds of paths."""
        return log_add(self.blank, self.token)


Prefixes = dict[tuple[int, ...], _Prefix]


def beam_search(top: TopTokens, width: int, hotwords: HotwordBonus = NO_HOTWORDS) -> list[Hypothesis]:
    """The texts that an utterance may say, at most `width`, the best first.

    Args:
        top: of the utterance's positions, in order.
    """
    kept: Prefixes = {(): _Prefix(hotwords.start, blank=0.0)}
    positions = zip(top.blank_P.tolist(), top.ids_PK.tolist(), top.log_probs_PK.tolist(), strict=True)
    for blank, ids, log_probs in positions:
        grown = _grown(kept, blank, list(zip(ids, log_probs, strict=True)), hotwords)
        scores = {tokens: prefix.total + hotwords.so_far(prefix.bonus) for tokens, prefix in grown.items()}
        kept = {tokens: grown[tokens] for tokens in heapq.nlargest(width, scores, key=scores.__getitem__)}
    found = [Hypothesis(tokens, prefix.total, hotwords.at_end(prefix.bonus)) for tokens, prefix in kept.items()]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def log_add(one: float, two: float) -> float:
    """log(exp(one) + exp(two))."""
    larger, smaller = (one, two) if one >= two else (two, one)
    return larger if smaller == NEVER else larger + math.log1p(math.exp(smaller - larger))


def _grown(kept: Prefixes, blank: float, tokens: list[tuple[int, float]], hotwords: HotwordBonus) -> Prefixes:
    """The prefixes after one more position: as they are, and longer by each of its tokens (id, log-probability)."""
    grown: Prefixes = {}
    for text, prefix in kept.items():
        total, last = prefix.total, text[-1] if text else None
        same = grown.setdefault(text, _Prefix(prefix.bonus))
        same.blank = log_add(same.blank, total + blank)
        for token, log_prob in tokens:
            if token == last:
                same.token = log_add(same.token, prefix.token + log_prob)
            before = prefix.blank if token == last else total
            if before == NEVER:
                continue
            longer = (*text, token)
            if longer not in grown:
                grown[longer] = _Prefix(hotwords.after(prefix.bonus, token, last is None))
            grown[longer].token = log_add(grown[longer].token, before + log_prob)
    return grown
