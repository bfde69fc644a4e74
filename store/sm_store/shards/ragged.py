"""A shard's worth of ragged rows, and where they were written: what the two shard layouts have in common.

    Ragged(features of width 1024 and float16, rows=[(300, 1024), (120, 1024)], counts=[300, 120])
      --shard_zarr.write / shard_tar.write-->
    Extents("shards/00000/features/c/0/0", offsets=[0, 614400], crc32c=[0x1c.., 0x77..])

Both layouts keep a record's rows as one contiguous range of bytes of one file, so that one reader serves
both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sm_store.durable import Written
from sm_store.rows import RowKind, extent_columns


@dataclass(frozen=True, slots=True)
class Ragged:
    """The rows of one kind of all records of a shard.

    Attributes:
        rows: one (n, width) or, where the kind's width is None, (n,) array per record. They may be made when they
            are asked for, so each is asked for once. counts: their lengths n.
    """

    kind: RowKind
    rows: Sequence[np.ndarray]
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Extents:
    """Where the records' rows are: byte offsets in one file (path below the store), and the crc32c of each record.

    Attributes:
        stored: size in bytes of each record's encoded block; 0 where rows are in chunks or not encoded.
    """

    file: str
    offsets: np.ndarray
    crc32c: np.ndarray
    stored: np.ndarray

    def columns(self, prefix: str) -> dict[str, np.ndarray]:
        """As the catalog columns of a kind of rows."""
        values = {"offset": self.offsets, "stored": self.stored, "crc32c": self.crc32c}
        return {prefix + name: values[name] for name in extent_columns(prefix)}


@dataclass(frozen=True, slots=True)
class ShardContent:
    """What to write as one shard: of a target set, or (None) of the features; `samples` has one JSON object per
    record."""

    target: str | None
    shard: int
    streams: Sequence[Ragged]
    samples: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ShardWritten:
    """A shard on disk: extents by member name, and every file with its size and crc32c."""

    extents: Mapping[str, Extents]
    files: Mapping[str, Written]

    def columns(self, kinds: Sequence[RowKind]) -> dict[str, np.ndarray]:
        """The catalog columns that say where the rows of these kinds are."""
        return {
            name: column for kind in kinds for name, column in self.extents[kind.member].columns(kind.prefix).items()
        }

    def data(self, kinds: Sequence[RowKind]) -> dict[str, str]:
        """The file that the offsets of each of these kinds point into."""
        return {kind.array: self.extents[kind.member].file for kind in kinds}
