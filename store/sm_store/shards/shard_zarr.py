"""One shard as Zarr v3 arrays: flat rows in one sharded file, and the records' offsets beside them.

    shards/00007/zarr.json              a group
    shards/00007/features/zarr.json     (frames, D), sharding codec, all in one shard
    shards/00007/features/c/0/0         row after row, zeros up to a whole inner chunk, then the chunk index
    shards/00007/offsets/{zarr.json,c/0}   int64 (records + 1,): record i is rows offsets[i] to offsets[i + 1]

Inner chunks are runs of whole rows with no codec but byte order, written in order and without gaps, so record
i's bytes are file[offsets[i] * row_bytes : offsets[i + 1] * row_bytes]: one read, no decoding. Its checksum
is kept in the catalog, since an inner crc32c codec would put four bytes between chunks, in the middle of
records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sm_store import paths
from sm_store.codec import Codec
from sm_store.durable import DurableFile, Stage, checksum, staged
from sm_store.identity import canonical
from sm_store.shards.ragged import Extents, Ragged, ShardContent, ShardWritten

_CHUNK_BYTES = 512 * 1024
_CODED_CHUNK_BYTES = 64 * 1024
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}


def write(root: Path, content: ShardContent) -> ShardWritten:
    """Write a shard's folder completely, then rename it into place."""
    base = paths.shard_folder(content.shard, content.target)
    extents: dict[str, Extents] = {}
    with staged(root / base) as stage:
        stage.add(paths.GROUP, group_json({"records": len(content.samples)}))
        for stream in content.streams:
            offsets, sums = _write_rows(stage, stream)
            where = f"{base}/{data_file(stream.kind.array, stream.kind.width is not None)}"
            extents[stream.kind.member] = Extents(where, offsets, sums, np.zeros(len(offsets), np.int64))
            _write_offsets(stage, stream)
    return ShardWritten(extents, {f"{base}/{name}": written for name, written in stage.files.items()})


def data_file(array: str, wide: bool) -> str:
    """The one shard file of an array, below the shard's folder."""
    return f"{array}/c/0/0" if wide else f"{array}/c/0"


def offsets_name(array: str) -> str:
    """The array of record offsets that goes with `array`."""
    return "offsets" if array == "features" else f"{array}_offsets"


def group_json(attributes: Mapping[str, Any] | None = None) -> bytes:
    """zarr.json of a group."""
    return canonical({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}) + b"\n"


def chunk_rows(total: int, row_bytes: int, coded: bool = False) -> int:
    """Rows in an inner chunk: a power of two, no more than the rows there are need.

    About half a megabyte; an eighth of that with a codec, since a record needs its chunks decoded whole.
    """
    rows, most = 1, _CODED_CHUNK_BYTES if coded else _CHUNK_BYTES
    while rows * 2 * row_bytes <= most and rows < total:
        rows *= 2
    return rows


def shard_index(sizes: Sequence[int]) -> bytes:
    """The sharding codec's index of consecutive chunks of these sizes: (offset, size) pairs and their crc32c."""
    index = np.empty((len(sizes), 2), "<u8")
    index[:, 1] = sizes
    index[:, 0] = np.cumsum(index[:, 1]) - index[:, 1]
    return index.tobytes() + checksum(index).to_bytes(4, "little")


def _write_rows(stage: Stage, stream: Ragged) -> tuple[np.ndarray, np.ndarray]:
    total, row_bytes = sum(stream.counts), stream.kind.row_bytes
    chunk = chunk_rows(total, row_bytes, stream.kind.codec is not None)
    chunks = -(-total // chunk)
    stage.add(f"{stream.kind.array}/{paths.GROUP}", _array_json(stream, total, chunk, chunks))
    offsets = (np.cumsum([0, *stream.counts], dtype=np.int64) * row_bytes)[:-1]
    sums = np.zeros(len(stream.counts), np.uint32)
    if total:
        with stage.create(data_file(stream.kind.array, stream.kind.width is not None)) as out:
            if stream.kind.codec is not None:
                _write_coded(out, stream, stream.kind.codec, chunk * row_bytes, sums)
            else:
                for position, rows in enumerate(stream.rows):
                    sums[position] = out.write(rows)
                out.write(bytes((chunks * chunk - total) * row_bytes))
                out.write(shard_index([chunk * row_bytes] * chunks))
    return offsets, sums


def _write_coded(out: DurableFile, stream: Ragged, codec: Codec, chunk_bytes: int, sums: np.ndarray) -> None:
    """Encode chunk after chunk of the records' rows, zeros behind the last; `sums` are of the rows as given."""
    sizes: list[int] = []
    chunk, filled = np.zeros(chunk_bytes, np.uint8), 0
    for position, rows in enumerate(stream.rows):
        data = np.ascontiguousarray(rows, dtype=stream.kind.numpy_dtype).reshape(-1).view(np.uint8)
        sums[position] = checksum(data)
        while len(data):
            taken = min(len(data), chunk_bytes - filled)
            chunk[filled : filled + taken] = data[:taken]
            data, filled = data[taken:], filled + taken
            if filled == chunk_bytes:
                sizes.append(_write_block(out, codec.encode(chunk)))
                filled = 0
    if filled:
        chunk[filled:] = 0
        sizes.append(_write_block(out, codec.encode(chunk)))
    out.write(shard_index(sizes))


def _write_block(out: DurableFile, block: bytes) -> int:
    out.write(block)
    return len(block)


def _write_offsets(stage: Stage, stream: Ragged) -> None:
    values = np.cumsum([0, *stream.counts], dtype="<i8")
    name = offsets_name(stream.kind.array)
    stage.add(f"{name}/{paths.GROUP}", _array(values.shape, "int64", values.shape, [_LITTLE, _CRC32C], {}))
    stage.add(data_file(name, wide=False), values.tobytes() + checksum(values).to_bytes(4, "little"))


def _array_json(stream: Ragged, total: int, chunk: int, chunks: int) -> bytes:
    tail = () if stream.kind.width is None else (stream.kind.width,)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [chunk, *tail],
            "codecs": [_LITTLE, *([stream.kind.codec.metadata] if stream.kind.codec is not None else [])],
            "index_codecs": [_LITTLE, _CRC32C],
            "index_location": "end",
        },
    }
    data_type = "uint16" if stream.kind.dtype == "bfloat16" else stream.kind.dtype
    attributes = {"dtype": stream.kind.dtype, "offsets": offsets_name(stream.kind.array)}
    return _array((total, *tail), data_type, (max(chunks, 1) * chunk, *tail), [sharding], attributes)


def _array(
    shape: tuple[int, ...],
    data_type: str,
    chunk_shape: tuple[int, ...],
    codecs: list[dict[str, Any]],
    attributes: dict[str, Any],
) -> bytes:
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if data_type.startswith("float") else 0,
        "codecs": codecs,
        "attributes": attributes,
    }
    return canonical(metadata) + b"\n"
