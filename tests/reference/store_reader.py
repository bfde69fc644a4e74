"""A second reader of stores, written from store/FORMAT.md alone: slow, obvious, sharing no code with sm_store.

    read_store(path)["1089-0"]  ->  {"features": (T, D), "fields": {...}, "targets": {"llm": (rows, token ids)}}

It parses zarr.json and the sharding index by hand, tars with tarfile, and computes crc32c bit by bit from its
polynomial. Blocks of codecs are decoded by numcodecs, number by number what int8 keeps.
"""

from __future__ import annotations

import io
import itertools
import json
import struct
import tarfile
from pathlib import Path

import numcodecs
import numpy as np
import pyarrow.parquet as pq

ITEM = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "int32": "<i4", "int64": "<i8", "uint16": "<u2"}
ITEM["int8"] = "|i1"
DECODE = {"zstd": numcodecs.Zstd().decode, "blosc": numcodecs.Blosc().decode}
SUFFIX = {"zstd": ".zst", "blosc": ".blosc"}


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), reflected polynomial 0x82F63B78, one byte at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_crc_of_byte(byte) for byte in range(256)]


def zarr_array(folder: Path) -> np.ndarray:
    """A zarr v3 array of one outer chunk: plain (bytes, crc32c) or sharded."""
    meta = json.loads((folder / "zarr.json").read_text())
    assert meta["zarr_format"] == 3 and meta["node_type"] == "array"
    shape, dtype = tuple(meta["shape"]), np.dtype(ITEM[meta["data_type"]])
    if 0 in shape:
        return np.zeros(shape, dtype)
    file = folder.joinpath("c", *["0"] * len(shape))
    data = file.read_bytes()
    if meta["codecs"][0]["name"] != "sharding_indexed":
        assert [codec["name"] for codec in meta["codecs"]] == ["bytes", "crc32c"]
        assert crc32c(data[:-4]) == struct.unpack("<I", data[-4:])[0]
        return np.frombuffer(data[:-4], dtype).reshape(shape)
    config = meta["codecs"][0]["configuration"]
    assert config["index_location"] == "end"
    decode = bytes
    if len(config["codecs"]) == 2:
        decode = DECODE[config["codecs"][1]["name"]]
    assert config["codecs"][0]["name"] == "bytes"
    outer, inner = meta["chunk_grid"]["configuration"]["chunk_shape"], config["chunk_shape"]
    count = outer[0] // inner[0]
    index = data[-(16 * count + 4) :]
    assert crc32c(index[:-4]) == struct.unpack("<I", index[-4:])[0]
    chunks = []
    for number in range(count):
        offset, size = struct.unpack_from("<QQ", index, 16 * number)
        chunks.append(np.frombuffer(decode(data[offset : offset + size]), dtype).reshape(inner))
    return np.concatenate(chunks)[: shape[0]]


def tar_samples(path: Path) -> dict[str, dict[str, bytes]]:
    """Members of a tar by key and extension."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            key, extension = member.name.split(".", 1)
            samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return samples


def npy(sample: dict[str, bytes], name: str, compression: str | None = None) -> np.ndarray:
    """A .npy member's array, decoded where a codec made a block of it; no pickle."""
    codec = (compression or "").split(":")[0]
    data = DECODE[codec](sample[name + SUFFIX[codec]]) if codec in SUFFIX else sample[name]
    return np.load(io.BytesIO(data), allow_pickle=False)


def read_store(root: Path) -> dict[str, dict]:
    """Every record of a store by id."""
    document = json.loads((root / "store.json").read_text())
    assert document["format"] == "speechmapper-store" and document["version"] == 1
    identity = document["identity"]
    records: dict[str, dict] = {}
    for part in sorted((root / "catalog").glob("*.parquet")):
        table = pq.read_table(part).to_pylist()
        seal = json.loads((part.parent / f"_{part.stem}.crc32c").read_text())
        assert seal == {"size": part.stat().st_size, "crc32c": crc32c(part.read_bytes())}
        features = _features(root, identity, part.stem)
        targets = {name: _targets(root, identity, part.stem, spec) for name, spec in document["targets"].items()}
        for row, entry in enumerate(table):
            assert entry["row"] == row and entry["id"] not in records
            if identity["compression"] == "int8":
                codes, scales = features[row]
                assert entry["scales_crc32c"] == crc32c(scales.tobytes())
                features[row] = multiplied(codes, scales, identity["dtype"])
                assert entry["crc32c"] == crc32c(codes.tobytes())
            else:
                assert entry["crc32c"] == crc32c(features[row].tobytes())
            assert entry["frames"] == len(features[row])
            fields = {key: value for key, value in entry.items() if key in FIELDS}
            own = {name: rows[row] for name, rows in targets.items() if rows is not None}
            records[entry["id"]] = {"features": features[row], "fields": fields, "targets": own}
    return records


FIELDS = ("text", "duration", "lang", "speaker", "split", "corpus", "question", "answer", "translation")


def _split(rows: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    return [rows[start:end] for start, end in itertools.pairwise(offsets)]


def _features(root: Path, identity: dict, shard: str) -> list:
    """Features of each record; with int8, (codes, scales)."""
    small = identity["compression"] == "int8"
    if identity["layout"] == "zarr":
        folder = root / "shards" / shard
        rows = _split(zarr_array(folder / "features"), zarr_array(folder / "offsets"))
        scales = _split(zarr_array(folder / "scales"), zarr_array(folder / "scales_offsets")) if small else []
    else:
        samples = tar_samples(root / "shards" / f"{shard}.tar")
        rows = [npy(samples[key], "features.npy", identity["compression"]) for key in sorted(samples)]
        scales = [npy(samples[key], "features.scales.npy") for key in sorted(samples)] if small else []
    return list(zip(rows, scales, strict=True)) if small else rows


def multiplied(codes: np.ndarray, scales: np.ndarray, dtype: str) -> np.ndarray:
    """int8 features as they are read: one float32 product a number, rounded to the dtype."""
    out = np.empty(codes.shape, ITEM[dtype])
    for frame, scale in enumerate(scales):
        for place, code in enumerate(codes[frame]):
            product = np.float32(code) * scale
            if dtype == "bfloat16":
                bits = int(product.view(np.uint32))
                out[frame, place] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
            else:
                out[frame, place] = product
    return out


def _targets(root: Path, identity: dict, shard: str, spec: dict) -> list | None:
    """(padded rows, token ids) of each record, or None where the shard has no targets of this set."""
    name, base = spec["name"], root / "targets" / spec["name"]
    part = base / "catalog" / f"{shard}.parquet"
    if not part.exists():
        return None
    vectors = pq.read_table(part).column("vectors").to_pylist()
    if identity["layout"] == "zarr":
        folder = base / "shards" / shard
        ids = _split(zarr_array(folder / "tokens"), zarr_array(folder / "tokens_offsets"))
        dense = None
        if spec["kind"] == "dense":
            dense = _split(zarr_array(folder / "embeddings"), zarr_array(folder / "embeddings_offsets"))
    else:
        own = base / "shards" / f"{shard}.tar"
        samples = tar_samples(own if own.exists() else root / "shards" / f"{shard}.tar")
        ids = [npy(samples[key], f"{name}.tokens.npy") for key in sorted(samples)]
        dense = None
        if spec["kind"] == "dense":
            dense = [npy(samples[key], f"{name}.npy", identity["compression"]) for key in sorted(samples)]
    if dense is None:
        dense = [table_rows(base, spec, entry, count) for entry, count in zip(ids, vectors, strict=True)]
    return list(zip(dense, ids, strict=True))


def table_rows(base: Path, spec: dict, ids: np.ndarray, vectors: int) -> np.ndarray:
    """Token embeddings, then pad rows, rounded to the store's dtype."""
    stored = np.load(base / "table.npy", allow_pickle=False)
    table = stored.astype(np.float32)
    if json.loads((base / "target.json").read_text())["table_dtype"] == "bfloat16":
        table = (stored.astype(np.uint32) << 16).view(np.float32)
    rows = [*ids.tolist(), *[spec["pad_id"]] * (vectors - len(ids))]
    if spec["dtype"] == "bfloat16":
        bits = table[rows].view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    return table[rows].astype(ITEM[spec["dtype"]])
