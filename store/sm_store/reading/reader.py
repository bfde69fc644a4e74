"""Records' bytes straight from the files into a caller's buffer: one `preadv` per run, checked, no copies.

    reader.fill(stream, indices, buffer, stride)     record i's rows at buffer[i * stride:], zeros behind them

Before anything is allocated, the catalog's ranges have been checked against the sizes the files should have
(`Stream.check`) and the files against theirs (`ShardFiles`). The checksum policy decides which records'
crc32c is computed: `always`, `first-epoch` (until each record was right once in this process), `never`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import google_crc32c
import numpy as np

from sm_store.codec import Codec
from sm_store.durable import Written
from sm_store.errors import RUN_VERIFY, ConfigError, StoreCorrupt
from sm_store.reading.files import OpenFile, ShardFiles
from sm_store.reading.plan_reads import Run, plan_reads, shares
from sm_store.system import ONLY_CACHED, advise
from sm_store.threads import THREADS, in_threads

ChecksumPolicy = Literal["always", "first-epoch", "never"]
POLICIES = ("always", "first-epoch", "never")
_MOST_PACKED = 32768  # decoded bytes that a stored byte can stand for at most: zstd's blocks of one value


@dataclass(frozen=True, slots=True)
class Stream:
    """Where one kind of rows of every record of a store is.

    Attributes:
        label: for error messages: `features`, `targets smollm2`.
        row_shape: () or (width,). dtype: as numpy holds it.
        counts, offsets, crc32c: (records,) rows, first byte and checksum of each record.
        starts: (shards + 1,) first record of each shard. shards: (shards,) their numbers.
        files: one path below the store per shard, "" for none. promised: size and crc32c that each must have.
        codec: None: a record's rows are `counts * row_bytes` bytes of the file at its offset.
        stored: with a codec, bytes of the record's own block at its offset; 0: its rows lie in chunks, and its
            offset counts decoded bytes.
    """

    label: str
    row_shape: tuple[int, ...]
    dtype: np.dtype
    counts: np.ndarray
    offsets: np.ndarray
    crc32c: np.ndarray
    starts: np.ndarray
    shards: np.ndarray
    files: Sequence[str]
    promised: Sequence[Written]
    codec: Codec | None = None
    stored: np.ndarray | None = None

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * (self.row_shape[0] if self.row_shape else 1)

    def file_of(self, indices: np.ndarray) -> np.ndarray:
        """The ordinal of the shard each record is in."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def name(self, index: int) -> str:
        """`shard 7 record 12 (features)`."""
        file = int(self.file_of(np.asarray(index)))
        return f"shard {int(self.shards[file])} record {index - int(self.starts[file])} ({self.label})"

    def check(self, files: ShardFiles) -> None:
        """Raises StoreCorrupt where a file's size, or a record's range in it, cannot be right."""
        for shard, file, written, found in zip(
            self.shards, self.files, self.promised, files.sizes(self.files), strict=True
        ):
            problem = written.difference(found) if file else None
            if problem is not None:
                raise StoreCorrupt(f"shard {shard} ({self.label}): {files.where(file)}: {problem}; {RUN_VERIFY}")
        for place, written in enumerate(self.promised):
            part = slice(int(self.starts[place]), int(self.starts[place + 1]))
            offsets, lengths = self.offsets[part], self.counts[part].astype(np.int64) * self.row_bytes
            bad = (offsets < 0) | (lengths < 0)
            if self.codec is not None and self.stored is not None:
                stored = self.stored[part]
                in_chunks = stored == 0  # their offsets count decoded bytes; where they lie, the chunk index says
                most = _MOST_PACKED * np.where(in_chunks, written.size, stored)
                bad |= (stored < 0) | (np.where(in_chunks, offsets, 0) + lengths > most)
                lengths = np.where(in_chunks, -offsets, stored)
            bad |= offsets + lengths > written.size
            if bad.any():
                record = self.name(part.start + int(np.argmax(bad)))
                raise StoreCorrupt(
                    f"{record}: the catalog points outside {files.where(self.files[place])}; {RUN_VERIFY}"
                )


class Reader:
    """Reads records of one stream; keeps track of which were checked."""

    def __init__(self, files: ShardFiles, stream: Stream, policy: ChecksumPolicy) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"checksum policy {policy!r}: choose one of {', '.join(POLICIES)}")
        self._files = files
        self.stream = stream
        self._policy = policy
        self._seen = np.zeros(len(stream.counts) if policy == "first-epoch" else 0, np.bool_)

    def fill(self, indices: np.ndarray, buffer: np.ndarray, stride: int) -> None:
        """Record `indices[i]` to `buffer[i * stride:]`, zeros up to the next; uint8 buffer, stride in bytes.

        Raises:
            StoreCorrupt: names shard and record; nothing of the buffer may be used then.
        """
        sizes = self.stream.counts[indices].astype(np.int64) * self.stream.row_bytes
        dests = np.arange(len(indices), dtype=np.int64) * stride
        self._read(indices, sizes, dests, buffer)
        for dest, size in zip(dests.tolist(), sizes.tolist(), strict=True):
            buffer[dest + size : dest + stride] = 0

    def flat(self, indices: np.ndarray) -> list[np.ndarray]:
        """Each record's rows as an array of its own (views of one block): for small rows like token ids."""
        sizes = self.stream.counts[indices].astype(np.int64) * self.stream.row_bytes
        ends = np.cumsum(sizes)
        buffer = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        self._read(indices, sizes, ends - sizes, buffer)
        rows = buffer.view(self.stream.dtype).reshape(-1, *self.stream.row_shape)
        return np.split(rows, (ends // self.stream.row_bytes)[:-1].tolist()) if len(indices) else []

    def _read(self, indices: np.ndarray, sizes: np.ndarray, dests: np.ndarray, buffer: np.ndarray) -> None:
        files = self.stream.file_of(indices)
        if not self._files.at_hand:
            self._prepare(files)
        runs = plan_reads(files, self.stream.offsets[indices], sizes, dests)
        in_threads([partial(self._read_runs, some, indices, buffer) for some in shares(runs, THREADS)])

    def _read_runs(self, runs: Sequence[Run], indices: np.ndarray, buffer: np.ndarray) -> None:
        view, cold = buffer.data, []
        for run in runs:
            if self._read_cached(run, view):
                self._check_run(run, indices, buffer)  # while the processor still holds the bytes
            else:  # ask the disk for all of it before waiting for any
                opened = self._open(run)
                advise(opened.fd, run.offset, run.size, "WILLNEED")
                cold.append(run)
        for run in cold:
            self._read_run(run, indices, view)
            self._check_run(run, indices, buffer)

    def _prepare(self, files: np.ndarray) -> None:
        wanted = [file for file in np.unique(files).tolist() if self.stream.files[file]]
        self._files.prepare({self.stream.files[file]: self.stream.promised[file] for file in wanted})

    def _open(self, run: Run) -> OpenFile:
        return self._files.get(self.stream.files[run.file], self.stream.promised[run.file])

    def _read_cached(self, run: Run, view: memoryview) -> bool:
        """Read a run if all of it is in the page cache."""
        opened = self._open(run)
        if ONLY_CACHED is None:
            return False
        try:
            return os.preadv(opened.fd, run.pieces(view), run.offset, ONLY_CACHED) == run.size
        except OSError:  # not there (EAGAIN), or a file system that cannot tell (EOPNOTSUPP)
            return False

    def _read_run(self, run: Run, indices: np.ndarray, view: memoryview) -> None:
        pieces = run.pieces(view)
        opened = self._open(run)
        offset, wanted = run.offset, run.size
        while wanted:
            got = os.preadv(opened.fd, pieces, offset)
            wanted, offset = wanted - got, offset + got
            if got == 0:
                record = self.stream.name(int(indices[run.wanted[-len(pieces)]]))
                raise StoreCorrupt(f"{record}: the file ends inside it; {RUN_VERIFY}")
            if wanted:
                pieces = _after(pieces, got)

    def _check_run(self, run: Run, indices: np.ndarray, buffer: np.ndarray) -> None:
        if self._policy == "never":
            return
        for position, dest, size in zip(run.wanted, run.dests, run.sizes, strict=True):
            self._check(int(indices[position]), buffer[dest : dest + size])

    def _check(self, index: int, data: np.ndarray) -> None:
        """Check a record's bytes against its checksum, as the policy says."""
        if self._policy == "never" or (self._policy == "first-epoch" and self._seen[index]):
            return
        if google_crc32c.value(data) != self.stream.crc32c[index]:
            raise StoreCorrupt(f"{self.stream.name(index)}: bytes differ from what was written; {RUN_VERIFY}")
        if self._policy == "first-epoch":
            self._seen[index] = True


def _after(pieces: list[memoryview], done: int) -> list[memoryview]:
    """What is left of `pieces` when their first `done` bytes are filled."""
    for position, piece in enumerate(pieces):
        if done < len(piece):
            return [piece[done:], *pieces[position + 1 :]]
        done -= len(piece)
    return []
