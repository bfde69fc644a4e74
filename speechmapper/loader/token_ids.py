"""The texts of the training split as token ids, before training: how often each occurs.

    token_ids(data)         [12, 84, 7], [3], ...            one array per training utterance, read shard by shard
    token_counts(data)      (V,)  [0, 0, 0, 1, ...]          of all of them

Only the token ids are read, no features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from speechmapper.loader.data import TrainingData


def token_ids(data: TrainingData) -> Iterator[tuple[int, np.ndarray]]:
    """Store index and token ids (N,) of each training utterance, in the order of the store."""
    indices, starts = np.sort(data.order.indices), data.store.starts
    for part, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        mine = indices[np.searchsorted(indices, start) : np.searchsorted(indices, end)]
        if len(mine):
            ids = data.store.shard_token_ids(part, data.spec.name)
            yield from ((index, ids[index - start]) for index in mine.tolist())


def token_counts(data: TrainingData) -> np.ndarray:
    """How often each token occurs in the training texts, (V,), int64."""
    counts_V = np.zeros(data.spec.vocabulary, np.int64)
    for _, ids in token_ids(data):
        np.add.at(counts_V, ids, 1)
    return counts_V
