"""What a CTC output says, by listing every path and every way to place hotwords."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

Text = tuple[int, ...]


def text_probabilities(probabilities: Sequence[Sequence[float]]) -> dict[Text, float]:
    """Probability of each text, from that of each token at each position; the last column is the blank."""
    blank = len(probabilities[0]) - 1
    found: dict[Text, float] = defaultdict(float)
    for path in itertools.product(range(blank + 1), repeat=len(probabilities)):
        merged = [label for label, _ in itertools.groupby(path)]
        text = tuple(label for label in merged if label != blank)
        found[text] += math.prod(row[label] for row, label in zip(probabilities, path, strict=True))
    return dict(found)


def covered(
    text: Text,
    first: Sequence[Text],
    later: Sequence[Text],
    continues: Callable[[int], bool],
    start: int = 0,
) -> int:
    """The most tokens of `text[start:]` that hotwords cover: `first` at the text's start, `later` anywhere else.

    No two overlap, and none is followed by a token that `continues` its word.
    """
    if start == len(text):
        return 0
    best = covered(text, first, later, continues, start + 1)
    for hotword in later if start else [*first, *later]:
        end = start + len(hotword)
        if text[start:end] == hotword and (end == len(text) or not continues(text[end])):
            best = max(best, len(hotword) + covered(text, first, later, continues, end))
    return best
