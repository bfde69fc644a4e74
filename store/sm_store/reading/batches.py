"""Padded batches: the readers' bytes laid out as arrays, features and targets side by side.

reader = BatchReader(ShardFiles(root), contents, identity.dtype, "always")
reader.read(indices)                                  features_BTD, frames_B, indices_B
reader.read(indices, TargetReader(...))               and targets_BUE, vectors_B, tokens_B, token_ids
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sm_store.geometry import Geometry
from sm_store.reading.blocks import BlockReader
from sm_store.reading.buffers import BufferPool
from sm_store.reading.contents import Contents, TargetContents
from sm_store.reading.files import ShardFiles
from sm_store.reading.int8_reader import Int8Reader
from sm_store.reading.reader import ChecksumPolicy, Reader, Stream
from sm_store.records import Batch
from sm_store.targets import TargetSet


def reader_of(files: ShardFiles, stream: Stream, policy: ChecksumPolicy) -> Reader:
    """The reader of a stream: by ranges of bytes, or through its codec."""
    return Reader(files, stream, policy) if stream.codec is None else BlockReader(files, stream, stream.codec, policy)


class TargetReader:
    """Reads one target set: dense rows from the files, or token ids and embeds them."""

    def __init__(self, files: ShardFiles, target: TargetSet, contents: TargetContents, policy: ChecksumPolicy) -> None:
        self._target = target
        self._vectors = contents.vectors
        self.tokens = Reader(files, contents.tokens, policy)
        self._dense = reader_of(files, contents.dense, policy) if contents.dense else None

    @property
    def geometry(self) -> Geometry:
        """What the set was padded for."""
        return self._target.spec.geometry

    def read(self, indices: np.ndarray, pool: BufferPool, vectors: np.ndarray | None = None) -> TargetRows:
        """The targets of some records, (B, U, E), zero beyond each record's own U.

        Args:
            vectors: the records' U where it is not the one the set was padded to; the rows are made from the ids then.
        """
        stored = self._dense if vectors is None else None
        vectors = self._vectors[indices].astype(np.int64) if vectors is None else vectors
        ids = self.tokens.flat(indices)
        shape = (len(indices), int(vectors.max(initial=0)), self._target.spec.width)
        rows = _fill(stored, indices, shape, pool) if stored else self._embed(ids, vectors, shape, pool)
        return TargetRows(rows, vectors, np.asarray([len(entry) for entry in ids], np.int64), ids)

    def _embed(
        self, ids: list[np.ndarray], vectors: np.ndarray, shape: tuple[int, ...], pool: BufferPool
    ) -> np.ndarray:
        pad = self._target.pad_row
        rows = pool.take(int(np.prod(shape)) * pad.itemsize).view(pad.dtype).reshape(shape)
        for row, entry, count in zip(rows, ids, vectors.tolist(), strict=True):
            entry = entry[:count]
            row[: len(entry)] = self._target.embed(entry)
            row[len(entry) : count] = pad
            row[count:] = 0
        return rows


@dataclass(frozen=True, slots=True)
class TargetRows:
    """The target half of a Batch."""

    targets_BUE: np.ndarray
    vectors_B: np.ndarray
    tokens_B: np.ndarray
    token_ids: list[np.ndarray]


class BatchReader:
    """Reads padded batches into memory that is used again when they are gone."""

    def __init__(self, files: ShardFiles, contents: Contents, dtype: str, policy: ChecksumPolicy) -> None:
        self._features: Reader | Int8Reader = reader_of(files, contents.features, policy)
        if contents.scales is not None:
            self._features = Int8Reader(self._features, Reader(files, contents.scales, policy), dtype)
        self._pools = {False: BufferPool(), True: BufferPool(pinned=True)}

    def each(self, indices: np.ndarray) -> list[np.ndarray]:
        """Features of each record, (T, D), without padding."""
        return self._features.flat(indices)

    def quantized(self, indices: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """The int8 codes (T, D) and scales (T,) of each record; None where features are kept as they are."""
        reader = self._features
        return list(zip(*reader.parts(indices), strict=True)) if isinstance(reader, Int8Reader) else None

    def read(
        self,
        indices: np.ndarray,
        target: TargetReader | None = None,
        pin: bool = False,
        geometry: Geometry | None = None,
    ) -> Batch:
        """A batch of the records at `indices`, (B,) int64, in that order.

        Args:
            geometry: of the vectors the targets are for; None: the target set's own.

        Raises:
            StoreCorrupt: names shard and record.
        """
        stream, pool = self._features.stream, self._pools[pin]
        frames = stream.counts[indices].astype(np.int64)
        shape = (len(indices), int(frames.max(initial=0)), *stream.row_shape)
        features = _fill(self._features, indices, shape, pool)
        if target is None:
            return Batch(features, frames, indices)
        own = geometry is None or geometry == target.geometry
        rows = target.read(indices, pool, None if own or geometry is None else geometry.num_vectors(frames))
        return Batch(features, frames, indices, rows.targets_BUE, rows.vectors_B, rows.tokens_B, rows.token_ids)


def _fill(reader: Reader | Int8Reader, indices: np.ndarray, shape: tuple[int, ...], pool: BufferPool) -> np.ndarray:
    stride = shape[1] * reader.stream.row_bytes
    buffer = pool.take(len(indices) * stride)
    reader.fill(indices, buffer, stride)
    return buffer.view(reader.stream.dtype).reshape(shape)
