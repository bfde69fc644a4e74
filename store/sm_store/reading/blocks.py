"""Records of compressed shards: the blocks that hold a record are read, decoded by threads, and checked.

    tar     one block a record: KEY.features.npy.zst is the encoded .npy        -> buffer[dest:]
    zarr    inner chunks of rows, found by the shard's chunk index              -> the record's rows of each chunk

As `reader.Reader`, of which it is the other half: there a record's bytes are a range of the file, here they are
what a codec makes of some ranges. How many bytes a block decodes to is known before it is looked at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import numpy as np

from sm_store.codec import Codec
from sm_store.durable import checksum
from sm_store.errors import RUN_VERIFY, StoreCorrupt
from sm_store.reading.files import ShardFiles
from sm_store.reading.reader import ChecksumPolicy, Reader, Stream
from sm_store.shards.shard_tar import NPY_HEAD
from sm_store.shards.shard_zarr import chunk_rows
from sm_store.threads import in_threads


@dataclass(frozen=True, slots=True)
class _Chunks:
    """A shard file's inner chunks: rows in each, and where they lie (chunks + 1,)."""

    rows: int
    starts: np.ndarray


class BlockReader(Reader):
    """Reads records of a compressed stream."""

    def __init__(self, files: ShardFiles, stream: Stream, codec: Codec, policy: ChecksumPolicy) -> None:
        super().__init__(files, stream, policy)
        self._codec = codec
        self._tables: dict[int, _Chunks] = {}

    def _read(self, indices: np.ndarray, sizes: np.ndarray, dests: np.ndarray, buffer: np.ndarray) -> None:
        def read(place: int) -> None:
            index, dest = int(indices[place]), int(dests[place])
            self._decode_record(index, buffer[dest : dest + int(sizes[place])])

        wanted = np.flatnonzero(sizes)
        files = self.stream.file_of(indices[wanted])
        if not self._files.at_hand:
            self._prepare(files)
        order = wanted[np.lexsort((self.stream.offsets[indices[wanted]], files))]
        in_threads([partial(read, place) for place in order.tolist()])

    def _decode_record(self, index: int, out: np.ndarray) -> None:
        file = int(self.stream.file_of(np.asarray(index)))
        size = int(self.stream.stored[index]) if self.stream.stored is not None else 0
        try:
            if size:
                self._decode_member(self._range(file, int(self.stream.offsets[index]), size), out)
            else:
                self._decode_rows(file, index, out)
        except ValueError as error:
            raise StoreCorrupt(f"{self.stream.name(index)}: cannot be decoded ({error}); {RUN_VERIFY}") from None
        self._check(index, out)

    def _decode_member(self, data: bytes, out: np.ndarray) -> None:
        decoded = np.empty(NPY_HEAD + out.size, np.uint8)
        self._codec.decode(data, decoded)
        out[:] = decoded[NPY_HEAD:]

    def _decode_rows(self, file: int, index: int, out: np.ndarray) -> None:
        """The record's bytes are `start` to `start + out.size` of all rows of the shard; so are those of chunks."""
        chunks, start = self._chunks(file), int(self.stream.offsets[index])
        size = chunks.rows * self.stream.row_bytes
        first, last = start // size, (start + out.size - 1) // size
        begin = int(chunks.starts[first])
        data = self._range(file, begin, int(chunks.starts[last + 1]) - begin)
        for chunk in range(first, last + 1):
            block = data[int(chunks.starts[chunk]) - begin : int(chunks.starts[chunk + 1]) - begin]
            low, high = max(start, chunk * size), min(start + out.size, (chunk + 1) * size)
            if high - low == size:
                self._codec.decode(block, out[low - start : high - start])
            else:
                decoded = np.empty(size, np.uint8)
                self._codec.decode(block, decoded)
                out[low - start : high - start] = decoded[low - chunk * size : high - chunk * size]

    def _range(self, file: int, offset: int, size: int) -> bytes:
        opened = self._files.get(self.stream.files[file], self.stream.promised[file])
        data = os.pread(opened.fd, size, offset)
        if len(data) != size:
            raise ValueError("the file ends inside it")
        return data

    def _chunks(self, file: int) -> _Chunks:
        """The chunk index at the end of a shard file, checked. Raises ValueError."""
        if file not in self._tables:
            last, row_bytes = int(self.stream.starts[file + 1]) - 1, self.stream.row_bytes
            total = int(self.stream.offsets[last]) // row_bytes + int(self.stream.counts[last])
            rows = chunk_rows(total, row_bytes, coded=True)
            count, size = -(-total // rows), self.stream.promised[file].size
            length = 16 * count + 4
            if length > size:
                raise ValueError("the file is smaller than its chunk index")
            raw = self._range(file, size - length, length)
            pairs = np.frombuffer(raw[:-4], "<u8").reshape(count, 2)
            starts = np.concatenate([[0], np.cumsum(pairs[:, 1], dtype=np.uint64)])
            fits = np.array_equal(starts[:-1], pairs[:, 0]) and int(starts[-1]) == size - length
            if int.from_bytes(raw[-4:], "little") != checksum(raw[:-4]) or not fits:
                raise ValueError("the chunk index is damaged")
            self._tables[file] = _Chunks(rows, starts.astype(np.int64))
        return self._tables[file]
