"""Bytes of a store's shards before they are written, from how many rows each utterance will have.

Sizes("zarr", starts=[0, 512]).rows(frames, 2048)      whole inner chunks and their index, shard by shard
Sizes("webdataset", starts).rows(vectors, 1152)         one tar member per record: headers, rows, padding to 512 bytes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sm_store.shards.shard_tar import NPY_HEAD
from sm_store.shards.shard_zarr import chunk_rows

TAR_BLOCK = 512
INDEX_BYTES = 16  # of a chunk in a shard's index


@dataclass(frozen=True, slots=True)
class Sizes:
    """How utterances are divided into shards.

    Attributes:
        layout: zarr or webdataset. starts: the first utterance of each shard.
    """

    layout: str
    starts: Sequence[int]

    def rows(self, counts: np.ndarray, row_bytes: int) -> int:
        """Bytes of an array of ragged rows, without codec.

        Args:
            counts: rows of each utterance, (utterances,).
        """
        if not len(counts):
            return 0
        if self.layout == "webdataset":
            return int((TAR_BLOCK + _padded(NPY_HEAD + counts.astype(np.int64) * row_bytes)).sum())
        totals = np.add.reduceat(counts.astype(np.int64), np.asarray(self.starts))
        chunks = [(chunk_rows(total, row_bytes), total) for total in totals.tolist()]
        return sum(-(-total // chunk) * (chunk * row_bytes + INDEX_BYTES) for chunk, total in chunks)

    def texts(self, counts: np.ndarray) -> int:
        """Bytes of the JSON members, from the bytes of the JSON of each record; zarr shards have none."""
        return int((TAR_BLOCK + _padded(counts)).sum()) if self.layout == "webdataset" else 0


def _padded(counts: np.ndarray) -> np.ndarray:
    return -(-counts // TAR_BLOCK) * TAR_BLOCK
