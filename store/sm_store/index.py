"""One file with the numbers of many catalog parts, so that a store of 60,000 shards opens in seconds.

    catalog/_index.arrow      Arrow IPC: frames, offset, crc32c, duration, lang, ... of every record, in order
    catalog/_index.crc32c     {"crc32c": ..., "size": ...} of it

    write_index(root, SCHEMA, made_by)      after an extraction
    index = read_index(root, made_by)       None where there is none
    index.parts[7], index.starts[7:9]                    the description of part 7, and its rows

It repeats the parts and is never required: shards committed after it are read from their parts, and
it is removed (`drop_index`) before any part is. Ids and texts stay in the parts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sm_store import catalog, paths
from sm_store.catalog import PartInfo
from sm_store.durable import checksum, remove, write_file
from sm_store.errors import StoreCorrupt, StoreFormatError
from sm_store.fields import CATEGORIES, FIELDS
from sm_store.identity import canonical

WORTH = 64  # parts; fewer are read as fast one by one
_FREE = {name for name, kind in FIELDS.items() if kind.type is not float and name not in CATEGORIES}
_NOT_INDEXED = frozenset({"id", "shard", "row", *_FREE})
_META = b"speechmapper"


@dataclass(frozen=True, slots=True)
class Index:
    """The numbers of some parts, ascending by shard.

    Attributes:
        parts: the description of each. starts: (parts + 1,) int64 first row of each in `table`, and the end.
        table: the indexed columns.
    """

    parts: Sequence[PartInfo]
    starts: np.ndarray
    table: pa.Table


def indexed_columns(schema: pa.Schema) -> list[str]:
    """The columns of a catalog schema that an index holds."""
    return [name for name in schema.names if name not in _NOT_INDEXED]


def write_index(root: Path, schema: pa.Schema, made_by: str, target: str | None = None) -> None:
    """Index the parts in a catalog folder, if they are many and the index there does not have them all."""
    shards = catalog.committed_shards(root, target)
    old = read_index(root, made_by, target)
    if len(shards) < WORTH or (old is not None and [part.shard for part in old.parts] == shards):
        return
    names = indexed_columns(schema)
    parts, tables = [], []
    for shard in shards:
        part, table = catalog.read_rows(root, shard, names, target)
        parts.append(part)
        tables.append(table)
    fields = [_indexed_field(schema.field(name)) for name in names]
    described = {"made_by": made_by, "rows": [len(table) for table in tables], "parts": [p.to_json() for p in parts]}
    whole = pa.concat_tables(tables).select(names).cast(pa.schema(fields)).unify_dictionaries().combine_chunks()
    data = _encode(whole.replace_schema_metadata({_META: canonical(described)}))
    drop_index(root, target)
    write_file(root / paths.index(target), data)
    write_file(root / paths.index_seal(target), catalog.seal(len(data), checksum(data)))


def read_index(root: Path, made_by: str, target: str | None = None) -> Index | None:
    """The index of a catalog folder, checked; None where there is none or it belongs to parts that are gone.

    Raises:
        StoreCorrupt: its bytes differ from what was written. StoreFormatError: it belongs to another store.
    """
    path, seal = root / paths.index(target), root / paths.index_seal(target)
    if not path.is_file() or not seal.is_file():
        return None
    data = catalog.checked(path, seal)
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as source:
            table = source.read_all()
        described = json.loads(table.schema.metadata[_META])
        parts = [PartInfo.from_json(entry) for entry in described["parts"]]
        starts = np.cumsum([0, *described["rows"]], dtype=np.int64)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError) as error:
        raise StoreFormatError(f"{path}: not an index of this format ({error})") from None
    if described["made_by"] != made_by:
        raise StoreFormatError(f"{path}: belongs to another store; remove it")
    if len(starts) != len(parts) + 1 or int(starts[-1]) != len(table):
        raise StoreCorrupt(f"{path}: rows and parts do not fit; remove it")
    return Index(parts, starts, table.replace_schema_metadata(None))


def drop_index(root: Path, target: str | None = None) -> None:
    """Remove the index: before a part goes, or before a new one is written. Without its seal it is
    ignored."""
    for file in (paths.index_seal(target), paths.index(target)):
        if (root / file).exists():
            remove(root / file)


def remove_part(root: Path, shard: int, target: str | None = None) -> None:
    """Make a shard uncommitted; does nothing where it is not committed."""
    if catalog.is_committed(root, shard, target):
        drop_index(root, target)
        remove(root / paths.part(shard, target))


def _indexed_field(field: pa.Field) -> pa.Field:
    """Categories are dictionary-encoded."""
    return field.with_type(pa.dictionary(pa.int32(), pa.string())) if pa.types.is_string(field.type) else field


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()
