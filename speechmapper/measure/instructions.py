"""Whether an output is what the instruction asked for, right or wrong: the parts that tasks put together.

    is_copy("The dog slept", "the dog slept.")             True: left as it was said
    is_short("the dog", "dog")                             True
    is_only("5.", re.compile(r"[0-9]+"))                   True: nothing but what the task's `match` finds

Each task says in `follows` which of them count (docs/evaluation.md has the definitions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sm_store.extras import extra_module

COPIED = 0.9  # similarity of two texts from which one is a copy of the other
FEW_WORDS, TIMES_THE_REFERENCE = 10, 3
_AROUND = re.compile(r"^\W+|\W+$")


def is_copy(output: str, source: str) -> bool:
    """Whether two texts are the same but for case, and one character of ten."""
    one, two = (" ".join(text.lower().split()) for text in (output, source))
    similarity = extra_module("rapidfuzz.distance").Levenshtein.normalized_similarity(one, two)
    return bool(one) and bool(similarity >= COPIED)


def copies_source(line: Mapping[str, Any]) -> bool:
    """Whether a prediction's output is a copy of what was said (its `source`, where it has one), the answer not being
    one."""
    source = line.get("source")
    if source is None:
        return False
    return is_copy(str(line["output"]), str(source)) and not is_copy(str(line["reference"]), str(source))


def is_short(output: str, reference: str) -> bool:
    """Whether an answer has at most ten words, or three times as many as the reference."""
    return len(output.split()) <= max(FEW_WORDS, TIMES_THE_REFERENCE * len(reference.split()))


def is_only(output: str, match: re.Pattern[str]) -> bool:
    """Whether an output is nothing but what the expression finds in it, apart from marks around it."""
    plain = _AROUND.sub("", output)
    found = match.search(plain)
    return found is not None and found[found.re.groups and 1] == plain
