"""A shard's worth of ragged rows, and where they ended up: what the two shard layouts have in common.

    Ragged("features", "features.npy", rows=[(300, 1024), (120, 1024)], width=1024, dtype="float16")
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

from sm_store.codec import Codec
from sm_store.dtypes import numpy_dtype
from sm_store.durable import Written

_INTEGERS: dict[str, np.dtype] = {"int32": np.dtype("<i4"), "int8": np.dtype("i1")}


@dataclass(frozen=True, slots=True)
class Ragged:
    """One kind of rows of all records of a shard.

    Attributes:
        array: name of the zarr array. member: extension in a tar sample.
        rows: one (n, width) or, where width is None, (n,) array a record. They may be made as they are asked
            for, so each is asked for once. counts: their lengths n.
        dtype: a storage dtype, `int32` or `int8`. codec: None: as they are.
    """

    array: str
    member: str
    rows: Sequence[np.ndarray]
    counts: Sequence[int]
    width: int | None
    dtype: str
    codec: Codec | None = None

    @property
    def numpy_dtype(self) -> np.dtype:
        return _INTEGERS[self.dtype] if self.dtype in _INTEGERS else numpy_dtype(self.dtype)

    @property
    def row_bytes(self) -> int:
        return self.numpy_dtype.itemsize * (self.width or 1)


@dataclass(frozen=True, slots=True)
class Extents:
    """Where the records' rows are: byte offsets in one file (path below the store) and a crc32c each.

    Attributes:
        stored: bytes of each record's block where a codec made one of it, 0 where its rows lie in chunks.
    """

    file: str
    offsets: np.ndarray
    crc32c: np.ndarray
    stored: np.ndarray


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
