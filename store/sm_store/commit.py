"""Committing a shard: check everything, write the data, then the ledger, then the catalog part, which commits it.

    shards/00007/ (or .tar)  ->  targets/NAME/shards/00007  ->  targets/NAME/catalog/00007
    ->  ledger/00007.jsonl  ->  catalog/_00007.crc32c  ->  catalog/00007.parquet

The last rename is the commit: the shard exists from then on.

Each arrow is: completely written, on disk, renamed. A crash before the last one leaves files that no reader
looks at and that the next commit of the shard replaces. The caller holds the shard's lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sm_store import catalog, ledger, paths
from sm_store.catalog import PartInfo
from sm_store.dtypes import is_finite, numpy_dtype
from sm_store.durable import write_file
from sm_store.errors import StoreError
from sm_store.fields import FIELDS, TEXTS
from sm_store.identity import Identity
from sm_store.index import remove_part
from sm_store.int8 import quantize
from sm_store.records import Record, Reject
from sm_store.rows import feature_rows, target_rows
from sm_store.shards import shard_tar, shard_zarr
from sm_store.shards.ragged import Ragged, ShardContent, ShardWritten
from sm_store.targets import DenseRows, TargetSet
from sm_store.threads import THREADS, in_threads

_WRITERS = {"zarr": shard_zarr.write, "webdataset": shard_tar.write}
TokenIds = Sequence[np.ndarray]


@dataclass(frozen=True, slots=True)
class ShardTargets:
    """The part of a shard that belongs to one target set: frames and token ids of each record, checked."""

    target: TargetSet
    shard: int
    frames: np.ndarray
    ids: TokenIds

    @property
    def vectors(self) -> list[int]:
        vectors: list[int] = self.target.spec.geometry.num_vectors(self.frames).tolist()
        return vectors

    def streams(self, identity: Identity) -> list[Ragged]:
        """What the target set stores for these records."""
        rows = {"tokens": self.ids, "embeddings": DenseRows(self.target, self.ids, self.vectors)}
        counts = {"tokens": [len(entry) for entry in self.ids], "vectors": self.vectors}
        kinds = target_rows(self.target.spec, identity.compression)
        return [Ragged(kind, rows[kind.array], counts[kind.counts]) for kind in kinds]


def write_shard(
    root: Path,
    identity: Identity,
    shard: int,
    content: tuple[Sequence[Record], Sequence[Reject]],
    token_ids: Sequence[tuple[TargetSet, TokenIds]],
) -> None:
    """Write and commit one shard: its records, its rejects, and their targets.

    Raises:
        StoreError: a record or its token ids do not fit the store; nothing was committed.
    """
    records, rejects = content
    check_records(identity, shard, records, rejects)
    frames = np.asarray([len(record.features) for record in records], np.int64)
    targets = [check_ids(target, shard, frames, ids) for target, ids in token_ids]
    remove_target_parts(root, shard)
    streams, columns = _feature_streams(identity, records)
    features = ShardContent(None, shard, streams, [_sample(identity, record) for record in records])
    written = _write_data(root, identity, features, targets)
    ledger_path = paths.ledger(shard)
    rejected = {ledger_path: write_file(root / ledger_path, ledger.encode(rejects))}
    columns |= _catalog_columns(shard, records, frames) | written.columns(feature_rows(identity))
    data = written.data(feature_rows(identity))
    info = PartInfo(shard, identity.sha256(), data, {**written.files, **rejected})
    catalog.commit(root, shard, catalog.encode(catalog.schema_of(identity), columns, info))


def write_missing_targets(
    root: Path, identity: Identity, target: TargetSet, shard: int, content: tuple[TokenIds, Sequence[Reject]]
) -> list[Reject]:
    """Targets for a committed shard, leaving out (and returning) the records whose text does not fit.

    Args:
        content: token ids of every record, and the rejects already known for records without any.
    """
    ids, known = content
    what = f"shard {shard}, targets {target.name!r}"
    if catalog.is_committed(root, shard, target.name):
        raise StoreError(f"{root}: {what} are there already; they are never changed")
    _, table = catalog.read_part(root, shard, ["id", "frames"])
    frames = table.column("frames").to_numpy().astype(np.int64)
    if len(ids) != len(frames):
        raise StoreError(f"{what}: token ids of {len(ids)} records for {len(frames)}")
    kept, rejects = [], list(known)
    vectors = target.spec.geometry.num_vectors(frames).tolist()
    for name, entry, room in zip(table.column("id").to_pylist(), ids, vectors, strict=True):
        fits = len(entry) + 1 <= room
        kept.append(entry if fits else np.zeros(0, np.int32))
        if not fits:
            rejects.append(Reject(name, "text_too_long", f"{len(entry)} tokens + 1 pad > {room} vectors"))
    write_late_targets(root, identity, check_ids(target, shard, frames, kept), rejects)
    return rejects


def write_late_targets(root: Path, identity: Identity, targets: ShardTargets, rejects: Sequence[Reject]) -> None:
    """Targets for a committed shard, as files of their own, with a ledger of the records that have none."""
    path = paths.ledger(targets.shard, targets.target.name)
    rejected = {path: write_file(root / path, ledger.encode(rejects))}
    written = _write_own(root, identity, targets)
    _commit_targets(root, identity, targets, ShardWritten(written.extents, {**written.files, **rejected}))


def remove_target_parts(root: Path, shard: int) -> None:
    """Remove the target parts that a crashed commit of `shard` left: they describe files about to be replaced."""
    for folder in sorted((root / paths.TARGETS).glob(f"*/{paths.CATALOG}")):
        remove_part(root, shard, folder.parent.name)


def discard_shard(root: Path, shard: int) -> None:
    """Make a damaged shard uncommitted, so that it can be made again; the caller holds its lock.

    Its part goes first: from then on no reader looks at its files, which the next commit replaces.
    """
    remove_part(root, shard)
    remove_target_parts(root, shard)


def _feature_streams(identity: Identity, records: Sequence[Record]) -> tuple[list[Ragged], dict[str, Any]]:
    """A shard's features as the store keeps them: in its dtype, or as int8 with one scale per frame.

    Returns the rows, and the catalog columns that come with their form.
    """
    rows: dict[str, list[np.ndarray]] = {"features": [record.features for record in records]}
    columns: dict[str, Any] = {}
    if identity.quantized:
        quantized = [record.quantized or quantize(record.features, identity.dtype) for record in records]
        rows = {"features": [each.codes for each in quantized], "scales": [each.scales for each in quantized]}
        columns["error"] = [each.error for each in quantized]
    counts = [len(record.features) for record in records]
    return [Ragged(kind, rows[kind.array], counts) for kind in feature_rows(identity)], columns


def _write_data(
    root: Path, identity: Identity, features: ShardContent, targets: Sequence[ShardTargets]
) -> ShardWritten:
    """Features, and targets: in the same samples of a tar, or as zarr arrays of their own."""
    if identity.layout == "webdataset":
        streams = [*features.streams, *(stream for entry in targets for stream in entry.streams(identity))]
        written = shard_tar.write(root, replace(features, streams=streams))
        for entry in targets:
            _commit_targets(root, identity, entry, ShardWritten(written.extents, {}))
    else:
        written = shard_zarr.write(root, features)
        for entry in targets:
            _commit_targets(root, identity, entry, _write_own(root, identity, entry))
    return written


def _write_own(root: Path, identity: Identity, targets: ShardTargets) -> ShardWritten:
    """The targets of a shard as files of their own."""
    samples: list[Mapping[str, Any]] = [{"row": row} for row in range(len(targets.ids))]
    content = ShardContent(targets.target.name, targets.shard, targets.streams(identity), samples)
    return _WRITERS[identity.layout](root, content)


def _commit_targets(root: Path, identity: Identity, targets: ShardTargets, written: ShardWritten) -> None:
    """Commit a shard's targets, whose rows are on disk already."""
    target = targets.target
    kinds = target_rows(target.spec, identity.compression)
    columns: dict[str, Any] = {
        "row": np.arange(len(targets.ids)),
        "vectors": targets.vectors,
        "tokens": [len(entry) for entry in targets.ids],
        **written.columns(kinds),
    }
    info = PartInfo(targets.shard, target.fingerprint(), written.data(kinds), written.files)
    part = catalog.encode(catalog.TARGET_SCHEMAS[target.spec.kind], columns, info)
    catalog.commit(root, targets.shard, part, target.name)


def check_records(identity: Identity, shard: int, records: Sequence[Record], rejects: Sequence[Reject]) -> None:
    """Raises StoreError where a record cannot go into this store, or an id comes twice."""
    ids: set[str] = set()
    for name in [*(record.id for record in records), *(reject.id for reject in rejects)]:
        if name in ids:
            raise StoreError(f"shard {shard}: id {name!r} comes twice; ids must be unique in a store")
        ids.add(name)
    dtype = numpy_dtype(identity.dtype)
    for record in records:
        _check_fields(shard, record)
        what = f"shard {shard} record {record.id!r}"
        features = record.features
        if features.ndim != 2 or features.shape[1] != identity.width or not len(features):
            raise StoreError(f"{what}: features are {features.shape}, not (frames > 0, {identity.width})")
        if features.dtype != dtype or not features.flags.c_contiguous:
            remedy = f"convert with sm_store.dtypes.to_storage(features, {identity.dtype!r})"
            raise StoreError(f"{what}: features are {features.dtype}, not contiguous {dtype}; {remedy}")
        if identity.quantized and record.quantized is not None:
            _check_quantized(what, record.features, record.quantized.features(identity.dtype))
    _check_finite(identity, shard, records)


def _check_finite(identity: Identity, shard: int, records: Sequence[Record]) -> None:
    """Raises StoreError for the first record with features that are not finite; checks in several threads."""
    finite = np.ones(len(records), np.bool_)

    def look(rows: np.ndarray) -> None:
        for row in rows.tolist():
            finite[row] = is_finite(records[row].features, identity.dtype)

    in_threads([partial(look, rows) for rows in np.array_split(np.arange(len(records)), THREADS)])
    if not finite.all():
        what = f"shard {shard} record {records[int(np.argmin(finite))].id!r}"
        raise StoreError(f"{what}: features are not finite; reject it as features_not_finite")


def _check_quantized(what: str, features: np.ndarray, kept: np.ndarray) -> None:
    if kept.shape != features.shape or kept.tobytes() != features.tobytes():
        raise StoreError(f"{what}: features are not those of their int8 form; leave `quantized` out to make it anew")


def _check_fields(shard: int, record: Record) -> None:
    try:
        # Half a surrogate pair, which stands for a byte that is no UTF-8, has no place in the catalog.
        json.dumps({"id": record.id, **record.fields.to_json()}, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise StoreError(f"shard {shard} record {record.id!r}: fields cannot be stored: {error}") from None
    if not record.id or not record.fields.duration >= 0:
        raise StoreError(f"shard {shard} record {record.id!r}: needs an id and a duration of 0 or more")


def check_ids(target: TargetSet, shard: int, frames: np.ndarray, ids: TokenIds) -> ShardTargets:
    """Token ids as int32, one array per record; an empty one means that the record has no target.

    Raises:
        StoreError: another number of them than records, ids outside the table, no room for text and a pad.
    """
    what = f"shard {shard}, targets {target.name!r}"
    if len(ids) != len(frames):
        raise StoreError(f"{what}: token ids of {len(ids)} records for {len(frames)}")
    rows = target.spec.vocabulary
    vectors = target.spec.geometry.num_vectors(frames)
    checked = []
    for row, entry in enumerate(ids):
        array = np.asarray(entry, np.int64).reshape(-1)
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) < rows:
            raise StoreError(f"{what}, record {row}: token ids beyond the table of {rows} rows")
        if len(array) and len(array) + 1 > int(vectors[row]):
            raise StoreError(f"{what}, record {row}: {len(array)} tokens + 1 pad > {vectors[row]} vectors")
        checked.append(array.astype("<i4"))
    return ShardTargets(target, shard, frames, checked)


def _sample(identity: Identity, record: Record) -> dict[str, Any]:
    base = {"id": record.id, "frames": len(record.features), "dtype": identity.dtype}
    return {**base, **record.fields.to_json()}


def _catalog_columns(shard: int, records: Sequence[Record], frames: np.ndarray) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "id": [record.id for record in records],
        "shard": np.full(len(records), shard),
        "row": np.arange(len(records)),
        "frames": frames,
    }
    for name, kind in FIELDS.items():
        values = [getattr(record.fields, name) for record in records]
        columns[name] = [sorted(each.items()) if each else None for each in values] if kind.type == TEXTS else values
    return columns
