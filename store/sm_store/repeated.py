"""Ids that come more than once: an utterance is in a store once, in its records or its rejects.

    repeated({0: ["a", "b"], 1: ["b"]}, {0: [], 1: []})     (0, "b", 1, "this id comes more than once"), (1, "b", 0, ..)
    repeated({0: ["a"], 7: ["b"]}, {0: ["b"], 7: []})       nothing: rejected in shard 0, extracted since as shard 7

Ids are compared by 64-bit digests, so that millions fit into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

MORE_THAN_ONCE = "this id comes more than once"


def repeated(
    records: Mapping[int, Sequence[str]], rejected: Mapping[int, Sequence[str]]
) -> Iterator[tuple[int, str, int | None, str]]:
    """Shard, id, row (None for a reject) and what is wrong, for each place of such an id.

    Args:
        records, rejected: ids by shard.
    """
    shards = sorted(records)
    digests = [_digests(records[shard]) for shard in shards]
    together = np.concatenate([*digests, _digests(())])
    home = np.repeat(np.asarray(shards, np.int64), [len(each) for each in digests])
    values, first, counts = np.unique(together, return_index=True, return_counts=True)
    twice = values[counts > 1]
    for shard, each in zip(shards, digests, strict=True) if len(twice) else ():
        for row in np.flatnonzero(np.isin(each, twice)).tolist():
            yield shard, records[shard][row], row, MORE_THAN_ONCE
    before: set[int] = set()
    for shard in sorted(rejected):
        for name, digest in zip(rejected[shard], _digests(rejected[shard]).tolist(), strict=True):
            if digest in before:
                yield shard, name, None, "this id is rejected more than once"
            before.add(digest)
            at = int(np.searchsorted(values, digest))
            if at < len(values) and values[at] == digest and home[first[at]] <= shard:
                yield shard, name, None, f"this id is rejected here, and in the records of shard {home[first[at]]}"


def _digests(names: Sequence[str]) -> np.ndarray:
    """(n,) uint64."""
    made = (int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") for name in names)
    return np.fromiter(made, np.uint64, len(names))
