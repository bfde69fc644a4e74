"""One version of a store: what was committed when it was opened, and everything read through it.

    view = View(identity, files, "always")
    view.read(indices, target_set)       padded batches
    view.columns(["text"])               catalog columns, read on first use and kept

A store handle swaps in a new view after its own commits; arrays and positions of the old one stay as they
were.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sm_store import catalog, ledger
from sm_store.errors import StoreError
from sm_store.geometry import Geometry
from sm_store.identity import Identity
from sm_store.int8 import Quantized
from sm_store.reading.batches import BatchReader, TargetReader
from sm_store.reading.contents import read_columns, read_contents, read_fields, read_shard_fields, read_target
from sm_store.reading.files import ShardFiles
from sm_store.reading.reader import ChecksumPolicy
from sm_store.records import Batch, Record, Reject
from sm_store.targets import TargetSet


class View:
    """The committed shards of a store at one moment."""

    def __init__(self, identity: Identity, files: ShardFiles, policy: ChecksumPolicy) -> None:
        self.root = files.root
        self.contents = read_contents(files, identity)
        self._identity = identity
        self._files = files
        self._policy: ChecksumPolicy = policy
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._targets: dict[str, TargetReader] = {}
        self._batches = BatchReader(files, self.contents, identity.dtype, policy)

    def __len__(self) -> int:
        return len(self.contents.features.counts)

    @cached_property
    def frames(self) -> np.ndarray:
        """(records,) int64: feature frames of each record."""
        return self.contents.features.counts.astype(np.int64)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the catalog, one row a record."""
        there = catalog.schema_of(self._identity).names
        unknown = [name for name in names if name not in there]
        if unknown:
            raise StoreError(f"no catalog column {unknown[0]!r}; there are {', '.join(there)}")
        fresh = [name for name in names if name not in self._columns]
        if fresh:
            table = read_columns(self.root, self._identity, self.contents, fresh)
            self._columns.update({name: table.column(name) for name in fresh})
        return pa.table({name: self._columns[name] for name in names})

    def record(self, index: int) -> Record:
        """One record. Raises IndexError beyond the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of a store of {len(self)}")
        index %= len(self)
        identifier, fields = read_fields(self.root, self.contents, index)
        features = self._batches.read(np.asarray([index])).features_BTD[0]
        return Record(identifier, features, fields)

    def shard(self, ordinal: int) -> tuple[list[Record], list[Reject]]:
        """All records and rejects of one of `contents.parts`."""
        part, rows = self.contents.parts[ordinal], self._rows(ordinal)
        described = read_shard_fields(self.root, part.shard)
        quantized = self._quantized(rows)
        features = [each.features(self._identity.dtype) for each in quantized] or self._batches.each(rows)
        kept: Sequence[Quantized | None] = quantized or [None] * len(features)
        each = zip(described, features, kept, strict=True)
        records = [Record(name, rows, fields, small) for (name, fields), rows, small in each]
        return records, ledger.read(self.root, part)

    def _quantized(self, rows: np.ndarray) -> list[Quantized]:
        """The records' int8 form; empty where features are kept as they are."""
        parts = self._batches.quantized(rows)
        if parts is None:
            return []
        errors = self.columns(["error"]).column("error").take(pa.array(rows)).to_pylist()
        return [Quantized(codes, scales, error) for (codes, scales), error in zip(parts, errors, strict=True)]

    def shard_token_ids(self, ordinal: int, target: TargetSet) -> list[np.ndarray]:
        """Token ids of the records of one of `contents.parts`; an empty array: no target."""
        return self.target(target).tokens.flat(self._rows(ordinal))

    def _rows(self, ordinal: int) -> np.ndarray:
        return np.arange(*self.contents.starts[ordinal : ordinal + 2])

    def read(
        self, indices: Sequence[int] | np.ndarray, target: TargetSet | None, pin: bool, geometry: Geometry | None
    ) -> Batch:
        """A padded batch of some records, in the order given."""
        wanted = positions(indices)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"records {wanted.min()} to {wanted.max()} of a store of {len(self)}")
        return self._batches.read(wanted, self.target(target) if target else None, pin, geometry)

    def target(self, target: TargetSet) -> TargetReader:
        """The reader of a target set, for all records of this view. Raises StoreMissing where shards lack
        it."""
        if target.name not in self._targets:
            made_by, compression = target.fingerprint(), self._identity.compression
            contents = read_target(self._files, target.spec, made_by, self.contents, compression)
            self._targets[target.name] = TargetReader(self._files, target, contents, self._policy)
        return self._targets[target.name]

    def rejects(self) -> list[Reject]:
        """Every rejected utterance that was not extracted since, in shard order."""
        entries = [entry for part in self.contents.parts for entry in ledger.read(self.root, part)]
        if not entries:
            return []
        there = self.columns(["id"]).column("id")
        names = pa.array([entry.id for entry in entries], pa.string())
        since = set(there.filter(pc.is_in(there, value_set=names)).to_pylist())
        return [entry for entry in entries if entry.id not in since]


def positions(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Positions of records, int64 (records,). Refuses a mask or fractions, which numpy would turn into other ones."""
    given = np.asarray(indices)
    if given.size and given.dtype.kind not in "iu":
        remedy = "np.flatnonzero(mask)" if given.dtype.kind == "b" else "integers"
        raise StoreError(f"positions of records are of type {given.dtype}; give {remedy}")
    return given.astype(np.int64).reshape(-1)
