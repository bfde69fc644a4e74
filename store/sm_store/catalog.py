"""The catalog: one Parquet part per shard, one row per utterance; renaming a part into place commits its shard.

    catalog/00007.parquet     id, shard, row, frames, offset, crc32c, text, duration, lang, ... translation
    catalog/_00007.crc32c     {"crc32c": 2868823, "size": 8123} of the part, which is checked by it

`offset` and `crc32c` are the position in bytes and the checksum of the record's features in the shard's file;
the part's schema metadata (key `speechmapper`) lists the shard's files with their sizes and checksums.
Opening reads only the numbers; text columns are read on demand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sm_store import paths
from sm_store.durable import Written, checksum, write_file
from sm_store.errors import RUN_VERIFY, StoreCorrupt, StoreFormatError
from sm_store.fields import CATEGORIES, FIELDS, TEXTS
from sm_store.identity import Identity, canonical
from sm_store.rows import extent_columns

_FIELD_TYPES = {str: pa.string(), float: pa.float64(), TEXTS: pa.map_(pa.string(), pa.string())}


def _extents(prefix: str = "") -> list[pa.Field]:
    types = {"offset": pa.int64(), "stored": pa.int64(), "crc32c": pa.uint32()}
    return [pa.field(prefix + name, types[name], nullable=False) for name in extent_columns(prefix)]


SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        *_extents(),
        *(pa.field(name, _FIELD_TYPES[kind.type], nullable=kind.nullable) for name, kind in FIELDS.items()),
    ]
)
_QUANTIZED = [*_extents("scales_"), pa.field("error", pa.float32(), nullable=False)]
_TOKENS = [
    pa.field("row", pa.int32(), nullable=False),
    pa.field("vectors", pa.int32(), nullable=False),
    pa.field("tokens", pa.int32(), nullable=False),
    *_extents("tokens_"),
]
TARGET_SCHEMAS = {"table": pa.schema(_TOKENS), "dense": pa.schema([*_TOKENS, *_extents()])}
_META = b"speechmapper"


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a part's metadata says.

    Attributes:
        shard: its number. made_by: fingerprint of the identity (or target set) it belongs to.
        data: stream name to the file (path below the store) its offsets point into.
        files: every file of the shard: path below the store to size and crc32c.
    """

    shard: int
    made_by: str
    data: Mapping[str, str]
    files: Mapping[str, Written]

    def to_json(self) -> dict[str, Any]:
        files = {path: [entry.size, entry.crc32c] for path, entry in self.files.items()}
        return {"shard": self.shard, "made_by": self.made_by, "data": dict(self.data), "files": files}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PartInfo:
        """Raises ValueError (or what a missing key raises) where it is not a part's description."""
        files = {path: Written(int(entry[0]), int(entry[1])) for path, entry in data["files"].items()}
        places = {str(stream): str(path) for stream, path in data["data"].items()}
        for path in [*files, *places.values()]:
            if not paths.is_file_of_a_shard(path):
                raise ValueError(f"a path outside the store: {path!r}")
        return cls(int(data["shard"]), str(data["made_by"]), places, files)


def schema_of(identity: Identity) -> pa.Schema:
    """The columns of a store's catalog: SCHEMA, and where features are int8 what that needs."""
    return pa.schema([*SCHEMA, *_QUANTIZED]) if identity.quantized else SCHEMA


def encode(schema: pa.Schema, columns: Mapping[str, Any], info: PartInfo) -> bytes:
    """A part as bytes; the same content gives the same bytes."""
    arrays = [pa.array(columns[entry.name], entry.type) for entry in schema]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({_META: canonical(info.to_json())}))
    sink = pa.BufferOutputStream()
    repeating = [name for name in CATEGORIES if name in columns]
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeating, row_group_size=1 << 20)
    return sink.getvalue().to_pybytes()


def commit(root: Path, shard: int, data: bytes, target: str | None = None) -> None:
    """Put a part in place: first its checksum, then, by one rename, the part itself."""
    write_file(root / paths.part_seal(shard, target), seal(len(data), checksum(data)))
    write_file(root / paths.part(shard, target), data)


def is_committed(root: Path, shard: int, target: str | None = None) -> bool:
    """Whether a shard (or a target set's share of it) is committed: its part exists."""
    return (root / paths.part(shard, target)).exists()


def committed_shards(root: Path, target: str | None = None) -> list[int]:
    """Numbers of the committed shards (or of those that have a target set's rows), ascending."""
    folder = root / paths.catalog_folder(target)
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.suffix == ".parquet")
    return sorted(int(name[: -len(".parquet")]) for name in names if name[: -len(".parquet")].isdigit())


def read_part(root: Path, shard: int, columns: Sequence[str], target: str | None = None) -> tuple[PartInfo, pa.Table]:
    """A part's description and some of its columns, after its checksum was checked.

    Raises:
        StoreCorrupt: missing or differing bytes. StoreFormatError: not a part of this format.
    """
    path = root / paths.part(shard, target)
    data = checked(path, root / paths.part_seal(shard, target))
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        info = PartInfo.from_json(json.loads(file.schema_arrow.metadata[_META]))
        table = file.read(columns=list(columns), use_threads=False)
        table = table.select(list(dict.fromkeys(columns)))  # reading leaves out what is not there
    except (pa.ArrowException, ValueError, KeyError, TypeError, IndexError, OSError) as error:
        raise StoreFormatError(f"{path}: not a catalog part of this format ({error})") from None
    if info.shard != shard:
        raise StoreCorrupt(f"{path}: is the part of shard {info.shard}; a file was renamed or copied here")
    return info, table


def read_rows(root: Path, shard: int, columns: Sequence[str], target: str | None = None) -> tuple[PartInfo, pa.Table]:
    """Like `read_part`; also checks that the rows are numbered 0, 1, 2, ..."""
    info, table = read_part(root, shard, ["row", *columns], target)
    rows = table.column("row").to_numpy()
    if not np.array_equal(rows, np.arange(len(rows))):
        what = f"{root / paths.part(shard, target)}: rows are not numbered 0, 1, 2, ..."
        raise StoreCorrupt(f"{what}; {RUN_VERIFY}")
    return info, table.select(list(columns)).replace_schema_metadata(None)


def seal(size: int, total: int) -> bytes:
    """The small file that holds size and crc32c of another."""
    return canonical({"size": size, "crc32c": total}) + b"\n"


def checked(path: Path, sealed_by: Path) -> pa.Buffer:
    """A file's bytes, after size and crc32c were checked against its seal.

    Raises:
        StoreCorrupt: missing or differing bytes.
    """
    try:
        raw = sealed_by.read_bytes()
        promised = json.loads(raw)
        written = Written(int(promised["size"]), int(promised["crc32c"]))
        if raw != seal(written.size, written.crc32c):
            raise ValueError(raw)
    except FileNotFoundError:
        raise StoreCorrupt(f"{sealed_by}: missing; {RUN_VERIFY}") from None
    except (ValueError, TypeError, KeyError):
        raise StoreCorrupt(f"{sealed_by}: damaged; {RUN_VERIFY}") from None
    return pa.py_buffer(written.require(path))
