"""What a store holds at the moment it is opened: the parts that are committed, as arrays of numbers.

    contents = read_contents(ShardFiles(root), identity)
    contents.features        Stream: frames, offsets, checksums, files of every record
    contents.parts           the description of each shard
    read_target(files, spec, made_by, contents, compression)    the same for a target set, aligned with the features

Everything is cross-checked here before any record is used: parts against the store's
identity, row numbers, sizes of files, ranges inside files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sm_store import catalog, paths
from sm_store.catalog import PartInfo
from sm_store.durable import Written
from sm_store.errors import RUN_VERIFY, StoreCorrupt, StoreFormatError, StoreMissing
from sm_store.fields import FIELDS, TEXTS, Fields
from sm_store.identity import Identity
from sm_store.index import Index, indexed_columns, read_index
from sm_store.reading.files import ShardFiles
from sm_store.reading.reader import Stream
from sm_store.records import TargetSpec
from sm_store.rows import RowKind, feature_rows, target_rows


@dataclass(frozen=True, slots=True)
class Contents:
    """The committed shards of a store, ascending, and where their features are.

    Attributes:
        features: rows in the store's dtype, or int8 codes. scales: with codes, one scale per frame; else None.
    """

    parts: Sequence[PartInfo]
    features: Stream
    scales: Stream | None = None

    @property
    def starts(self) -> np.ndarray:
        return self.features.starts

    @property
    def shards(self) -> list[int]:
        return [part.shard for part in self.parts]


@dataclass(frozen=True, slots=True)
class TargetContents:
    """Where a target set's rows are.

    Attributes:
        vectors: (records,) rows of each record's padded target.
        tokens: token ids. dense: the padded targets; None for a `table` set.
    """

    vectors: np.ndarray
    tokens: Stream
    dense: Stream | None


def read_contents(files: ShardFiles, identity: Identity) -> Contents:
    """The catalog of a store, checked.

    Raises:
        StoreCorrupt, StoreFormatError: names the shard (and record).
    """
    root = files.root
    kinds = feature_rows(identity)
    names = ["frames", *(name for kind in kinds for name in kind.columns)]
    table = _read_parts(root, catalog.committed_shards(root), names, identity.sha256())
    streams = {kind.array: _stream(table, table.parts, kind) for kind in kinds}
    features = streams["features"]
    features.check(files)
    if len(features.counts) and int(features.counts.min()) < 1:
        raise StoreCorrupt(f"{features.name(int(features.counts.argmin()))}: no frames; {RUN_VERIFY}")
    scales = streams.get("scales")
    if scales is not None:
        scales.check(files)
    return Contents(table.parts, features, scales)


def read_target(
    files: ShardFiles, spec: TargetSpec, made_by: str, contents: Contents, compression: str | None
) -> TargetContents:
    """The catalog of a target set for exactly the shards in `contents`, checked.

    Raises:
        StoreMissing: a shard has no targets yet. StoreCorrupt, StoreFormatError: names the shard.
    """
    root = files.root
    folder = root / paths.catalog_folder(spec.name)
    have = set(catalog.committed_shards(root, spec.name))
    missing = [shard for shard in contents.shards if shard not in have]
    if missing:
        count = f"{len(missing)} of {len(contents.parts)} shards (first: {missing[0]})"
        raise StoreMissing(f"{root}: target set {spec.name!r} lacks {count}; run `sm-pipeline embed` again")
    kinds = target_rows(spec, compression)
    names = ["vectors", "tokens", *(name for kind in kinds for name in kind.columns)]
    table = _read_parts(root, contents.shards, names, made_by, spec.name)
    if not np.array_equal(table.starts, contents.starts):
        raise StoreCorrupt(f"{folder}: holds other records than the features do; {RUN_VERIFY}")
    if not np.array_equal(table.columns["vectors"], spec.geometry.num_vectors(contents.features.counts)):
        raise StoreCorrupt(f"{folder}: vectors do not follow from frames; {RUN_VERIFY}")
    streams = {kind.array: _stream(table, contents.parts, kind) for kind in kinds}
    for stream in streams.values():
        stream.check(files)
    return TargetContents(table.columns["vectors"], streams["tokens"], streams.get("embeddings"))


def read_columns(root: Path, identity: Identity, contents: Contents, names: Sequence[str]) -> pa.Table:
    """Catalog columns of every record in `contents`, in order."""
    whole = catalog.schema_of(identity)
    schema = pa.schema([whole.field(name) for name in names])
    shards = contents.shards
    index = read_index(root, identity.sha256()) if set(names) <= set(indexed_columns(whole)) else None
    indexed = len(index.parts) if index is not None else 0
    tables = []
    if index is not None and [part.shard for part in index.parts] == shards[:indexed]:
        tables.append(index.table)
        shards = shards[indexed:]
    tables += [catalog.read_part(root, shard, names)[1] for shard in shards]
    return pa.concat_tables([table.select(names).cast(schema) for table in tables] or [schema.empty_table()])


def read_fields(root: Path, contents: Contents, index: int) -> tuple[str, Fields]:
    """One record's id and fields."""
    ordinal = int(contents.features.file_of(np.asarray(index)))
    row = index - int(contents.starts[ordinal])
    return _fields(_fields_table(root, contents.shards[ordinal]).slice(row, 1).to_pylist()[0])


def read_shard_fields(root: Path, shard: int) -> list[tuple[str, Fields]]:
    """Id and fields of every record of a shard."""
    return [_fields(entry) for entry in _fields_table(root, shard).to_pylist()]


def _fields_table(root: Path, shard: int) -> pa.Table:
    return catalog.read_part(root, shard, ["id", *FIELDS])[1]


def _fields(entry: dict[str, Any]) -> tuple[str, Fields]:
    values = {name: entry[name] for name in FIELDS}
    texts = {name: dict(values[name]) for name, kind in FIELDS.items() if kind.type == TEXTS and values[name]}
    return entry["id"], Fields(**(values | texts))


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of a catalog folder, read: their own descriptions, and columns over all of them."""

    parts: Sequence[PartInfo]
    starts: np.ndarray
    columns: Mapping[str, np.ndarray]

    @property
    def shards(self) -> np.ndarray:
        return np.asarray([part.shard for part in self.parts], np.int64)


def _read_parts(
    root: Path, shards: Sequence[int], names: Sequence[str], made_by: str, target: str | None = None
) -> _Parts:
    """Columns of every part, from the index as far as it goes, and from the parts themselves."""
    index = read_index(root, made_by, target)
    indexed = {part.shard for part in index.parts} if index is not None else set()
    if index is None or not indexed <= set(shards):
        index, indexed = Index((), np.zeros(1, np.int64), pa.table({})), set()
    parts, tables, sizes = list(index.parts), [], np.diff(index.starts).tolist()
    if indexed:
        tables.append(index.table.select(names))
    for shard in [shard for shard in shards if shard not in indexed]:
        part, table = catalog.read_rows(root, shard, names, target)
        if part.made_by != made_by:
            raise StoreFormatError(
                f"{root / paths.catalog_folder(target)}: the part of shard {shard} belongs to another store"
            )
        parts.append(part)
        tables.append(table)
        sizes.append(len(table))
    columns = _columns(tables, names)
    order = np.argsort([part.shard for part in parts], kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        rows = _rows_in_order(np.asarray(sizes, np.int64), order)
        columns = {name: column[rows] for name, column in columns.items()}
    starts = np.cumsum([0, *(sizes[place] for place in order)], dtype=np.int64)
    return _Parts([parts[place] for place in order], starts, columns)


def _columns(tables: Sequence[pa.Table], names: Sequence[str]) -> dict[str, np.ndarray]:
    if not tables:
        return {name: np.zeros(0, np.int64) for name in names}
    whole = pa.concat_tables(tables)
    return {name: whole.column(name).to_numpy() for name in names}


def _rows_in_order(sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Row numbers that bring segments of `sizes` rows into `order`."""
    starts = np.cumsum(sizes) - sizes
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes[order]) - sizes[order], sizes[order])
    return np.repeat(starts[order], sizes[order]) + within


def _stream(table: _Parts, owners: Sequence[PartInfo], kind: RowKind) -> Stream:
    files, promised = _files(table.parts, owners, kind.array)
    return Stream(
        label=kind.label,
        row_shape=kind.row_shape,
        dtype=kind.numpy_dtype,
        counts=table.columns[kind.counts],
        offsets=table.columns[f"{kind.prefix}offset"],
        crc32c=table.columns[f"{kind.prefix}crc32c"],
        starts=table.starts,
        shards=table.shards,
        files=files,
        promised=promised,
        codec=kind.codec,
        stored=table.columns["stored"] if kind.codec is not None else None,
    )


def _files(parts: Sequence[PartInfo], owners: Sequence[PartInfo], data: str) -> tuple[list[str], list[Written]]:
    """The file of each shard that holds `data`, and its promised size and crc32c.

    Targets made at extraction may live in the features' own file (tar): then its size is in the features'
    part. An empty shard has no data file: neither part lists it, and nothing is read from it.
    """
    files, promised = [], []
    for part, owner in zip(parts, owners, strict=True):
        file = part.data.get(data)
        entry = (part.files.get(file) or owner.files.get(file)) if file else None
        files.append(file if entry and file else "")
        promised.append(entry or Written(0, 0))
    return files, promised
