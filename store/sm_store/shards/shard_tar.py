"""One shard as a plain tar of self-contained samples, as webdataset reads it.

    shards/00007.tar
        00007000012.json                  id, frames, fields, dtype
        00007000012.features.npy          (frames, D)
        00007000012.smollm2.npy           (U, E) padded target embeddings, per target set made at extraction
        00007000012.smollm2.tokens.npy    (tokens,) int32

Members are uncompressed, so a record's numbers are one range of bytes of the tar, behind 512 bytes of tar
header and 128 of npy header. Owner, mode and time are fixed: the same records make the same tar.
"""

from __future__ import annotations

import io
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from sm_store import paths
from sm_store.durable import DurableFile, checksum, staged
from sm_store.errors import StoreError
from sm_store.identity import canonical
from sm_store.shards.ragged import Extents, Ragged, ShardContent, ShardWritten

NPY_HEAD = 128  # bytes of a .npy header here
_BLOCK = 512
_RECORD = 20 * _BLOCK


def write(root: Path, content: ShardContent) -> ShardWritten:
    """Write a shard's tar completely, then rename it into place."""
    path = paths.shard_tar(content.shard, content.target)
    count = len(content.samples)
    offsets = {stream.kind.member: np.zeros(count, np.int64) for stream in content.streams}
    sums = {stream.kind.member: np.zeros(count, np.uint32) for stream in content.streams}
    stored = {stream.kind.member: np.zeros(count, np.int64) for stream in content.streams}
    with staged(root / path, folder=False) as stage, stage.create("") as out:
        for row, sample in enumerate(content.samples):
            key = sample_key(content.shard, row)
            _write_member(out, f"{key}.json", canonical(sample), np.empty(0, np.uint8))
            for stream in content.streams:
                where, total, size = _write_array(out, f"{key}.{stream.kind.member}", stream, row)
                offsets[stream.kind.member][row], sums[stream.kind.member][row] = where, total
                stored[stream.kind.member][row] = size
        out.write(bytes(2 * _BLOCK))
        out.write(bytes(-out.size % _RECORD))
    extents = {name: Extents(path, offsets[name], sums[name], stored[name]) for name in offsets}
    return ShardWritten(extents, {path: stage.files[""]})


def sample_key(shard: int, row: int) -> str:
    """The sample's name in the tar: unique in the store, free of dots."""
    return f"{paths.shard_name(shard)}{row:06d}"


def npy_header(array: np.ndarray) -> bytes:
    """The .npy header (version 1.0) of a C-contiguous array."""
    return _npy_header(array.shape, array.dtype.str)


@lru_cache(maxsize=4096)
def _npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def _write_array(out: DurableFile, name: str, stream: Ragged, row: int) -> tuple[int, int, int]:
    """A record's rows as a .npy member, encoded where the stream has a codec.

    Returns where they (or their block) are, the crc32c of the rows, and the size of the block, 0 for none.
    """
    rows = np.ascontiguousarray(stream.rows[row], dtype=stream.kind.numpy_dtype)
    head = npy_header(rows)
    if stream.kind.codec is None:
        return *_write_member(out, name, head, rows), 0
    if len(head) != NPY_HEAD:
        raise StoreError(f"{name}: a .npy header of {len(head)} bytes, where compressed members have {NPY_HEAD}")
    block = stream.kind.codec.encode(np.frombuffer(head + rows.tobytes(), np.uint8))
    where, _ = _write_member(out, name + stream.kind.codec.suffix, b"", np.frombuffer(block, np.uint8))
    return where, checksum(rows), len(block)


def _write_member(out: DurableFile, name: str, head: bytes, body: np.ndarray) -> tuple[int, int]:
    """Append a member of `head` then `body`; returns the body's position in the tar and its crc32c."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(head) + body.nbytes, 0o644, 0
    padding = bytes(-info.size % _BLOCK)
    front = info.tobuf(format=tarfile.USTAR_FORMAT) + head
    if not body.size:
        out.write(front + padding)
        return out.size - len(padding), 0
    out.write(front)
    where = out.size
    total = out.write(body)
    if padding:
        out.write(padding)
    return where, total
