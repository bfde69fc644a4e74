"""Several stores read as one, without copying: their records one after the other, in the order in which they are given.

    joined = Stores([Store.open("a.store"), Store.open("b.store")], ["llm", "smollm2"])
    len(joined)                              400 + 80
    joined.read([3, 402], targets="llm")     one padded batch: record 3 of a.store, record 2 of b.store

Positions, shards and batches are those of the store that `sm-pipeline merge` would make of them. `open_stores` opens
what `--store` names, one store as it is; which of their target sets belong together: `loader/target_sets.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sm_store import Batch, Geometry, Identity, Store, TargetSet
from sm_store.convert import planned_shards
from sm_store.errors import ConfigError, IdentityMismatch, StoreMissing
from sm_store.identity import canonical, diff_json, feature_meaning
from sm_store.reading.buffers import BufferPool
from sm_store.reading.remote import url_of
from sm_store.reading.view import positions

SHARD = "shard"


class Stores:
    """Several open stores as one, to read.

    Args:
        stores: two or more, of the same features (`require_same_features`).
        targets: name of the target set of each; all have the same content. The first store's name stands for all.
    """

    def __init__(self, stores: Sequence[Store], targets: Sequence[str]) -> None:
        self.stores = tuple(stores)
        self._targets = tuple(targets)
        self.offsets = np.cumsum([0, *map(len, self.stores)], dtype=np.int64)
        self._pools = {False: BufferPool(), True: BufferPool(pinned=True)}

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def path(self) -> str:
        """Where they are, for messages."""
        return " and ".join(store.path for store in self.stores)

    @property
    def identity(self) -> Identity:
        """The first store's; the others' features mean the same."""
        return self.stores[0].identity

    @cached_property
    def frames(self) -> np.ndarray:
        """(records,) int64: feature frames of each record."""
        return np.concatenate([store.frames for store in self.stores])

    @property
    def starts(self) -> np.ndarray:
        """(shards + 1,) int64: position of the first record of each shard, and the end."""
        pairs = zip(self.stores, self.offsets.tolist(), strict=False)
        firsts = [store.starts[:-1] + offset for store, offset in pairs]
        return np.concatenate([*firsts, self.offsets[-1:]])

    def reopened(self) -> Stores:
        """The same, opened once more: for use in another thread."""
        return Stores([Store.open(store.path) for store in self.stores], self._targets)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the catalogs; shards are numbered on from store to store, so that each has its own number."""
        tables, first = [], 0
        for store in self.stores:
            table = store.columns(names)
            if SHARD in names:
                column = pc.add(table[SHARD], pa.scalar(first, table[SHARD].type))
                table = table.set_column(table.column_names.index(SHARD), table.schema.field(SHARD), column)
                first += planned_shards(store)
            tables.append(table)
        return pa.concat_tables(tables)

    def select(self, **where: str | None) -> np.ndarray:
        """Positions, ascending int64, of records whose fields have these values."""
        pairs = zip(self.stores, self.offsets.tolist(), strict=False)
        return np.concatenate([store.select(**where) + offset for store, offset in pairs])

    def targets(self, name: str) -> TargetSet:
        """The target set, as the first store has it. Raises StoreMissing."""
        return self.stores[0].targets(str(self._names(name)[0]))

    def token_counts(self, name: str) -> np.ndarray:
        """(records,) int64: tokens of each record; 0: it has no target. Raises StoreMissing."""
        pairs = zip(self.stores, self._names(name), strict=True)
        return np.concatenate([store.token_counts(str(own)) for store, own in pairs])

    def shard_token_ids(self, ordinal: int, name: str) -> list[np.ndarray]:
        """Token ids of the records of one shard, counted over all stores; an empty array: no target."""
        for store, own in zip(self.stores, self._names(name), strict=True):
            if ordinal < len(store.parts):
                return store.shard_token_ids(ordinal, str(own))
            ordinal -= len(store.parts)
        raise IndexError(f"{self.path}: no shard at place {ordinal}")

    def read(
        self,
        indices: Sequence[int] | np.ndarray,
        targets: str | None = None,
        pin: bool = False,
        geometry: Geometry | None = None,
    ) -> Batch:
        """A padded batch, in the order of `indices`; as `Store.read`."""
        wanted, names = positions(indices), self._names(targets)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"records {wanted.min()} to {wanted.max()} of stores of {len(self)}")
        owner_B = np.searchsorted(self.offsets, wanted, side="right") - 1
        touched = np.unique(owner_B).tolist() or [0]
        parts = []
        for number in touched:
            rows = np.flatnonzero(owner_B == number)
            own = wanted[rows] - self.offsets[number]
            batch = self.stores[number].read(own, names[number], pin and len(touched) == 1, geometry)
            parts.append((rows, batch))
        if len(parts) == 1:
            return replace(parts[0][1], indices_B=wanted)
        return _joined(parts, wanted, self._pools[pin])

    def _names(self, target: str | None) -> Sequence[str | None]:
        """The target set's name in each store."""
        if target is None:
            return [None] * len(self.stores)
        if target != self._targets[0]:
            raise StoreMissing(f"{self.path}: read with target set {self._targets[0]!r}, not {target!r}")
        return self._targets


OpenStore = Store | Stores  # what training reads


def _joined(parts: Sequence[tuple[np.ndarray, Batch]], indices: np.ndarray, pool: BufferPool) -> Batch:
    """One batch of batches that each fill some of its rows."""
    order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
    batches = [batch for _, batch in parts]

    def numbers(name: str) -> np.ndarray:
        return np.concatenate([getattr(batch, name) for batch in batches])[order]

    def padded(name: str) -> np.ndarray:
        arrays = [getattr(batch, name) for batch in batches]
        shape = (len(indices), max(array.shape[1] for array in arrays), arrays[0].shape[2])
        dtype = arrays[0].dtype
        made = pool.take(int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)
        for (rows, _), array in zip(parts, arrays, strict=True):
            made[rows, : array.shape[1]] = array
            made[rows, array.shape[1] :] = 0
        return made

    features = Batch(padded("features_BTD"), numbers("frames_B"), indices)
    if batches[0].targets_BUE is None:
        return features
    ids = [each for batch in batches for each in batch.token_ids or []]
    return replace(
        features,
        targets_BUE=padded("targets_BUE"),
        vectors_B=numbers("vectors_B"),
        tokens_B=numbers("tokens_B"),
        token_ids=[ids[place] for place in order.tolist()],
    )


def open_stores(paths: Sequence[Path]) -> list[Store]:
    """The stores that `--store` names, in that order.

    Raises:
        StoreError: no usable store. ConfigError: one is named twice. IdentityMismatch: other features.
    """
    places = [url_of(path) or str(path.resolve()) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"--store {path}: given twice; name each store once")
    stores = [Store.open(path) for path in paths]
    for store in stores[1:]:
        require_same_features(stores[0], store)
    return stores


def require_same_features(first: Store, other: Store) -> None:
    """Raises IdentityMismatch, naming both stores, where their features have another meaning or dtype."""
    mine, theirs = (
        {**feature_meaning(each.identity.to_json()), "dtype": each.identity.dtype} for each in (first, other)
    )
    differences = "; ".join(diff_json(mine, theirs))
    if differences:
        raise IdentityMismatch(
            f"{first.path} and {other.path} cannot be trained on together, their features differ "
            f"(first != second): {differences}; train on each alone, or extract one of them as the other was"
        )


def stores_identity(store: OpenStore) -> dict[str, Any]:
    """What a run's identity says of the stores, as JSON values: `store`, or `stores` by number in their order."""
    if isinstance(store, Store):
        return {"store": _compared(store)}
    return {"stores": {str(number): _compared(each) for number, each in enumerate(store.stores, 1)}}


def require_same_stores(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """Check the number and the order of the stores in two run identities; what else differs is not looked at.

    Raises:
        IdentityMismatch: `what` names the checkpoint that has the identity `found`.
    """
    theirs, mine = _identities(found), _identities(wanted)
    if len(theirs) != len(mine):
        raise IdentityMismatch(
            f"{what}: its run trains on {len(theirs)} store{'s' if len(theirs) != 1 else ''}, this command names "
            f"{len(mine)}; give the same --store options, or another folder"
        )
    if theirs != mine and sorted(theirs) == sorted(mine):
        order = ", ".join(str(mine.index(each) + 1) for each in theirs)
        raise IdentityMismatch(
            f"{what}: its run has the stores in another order, and the order decides what each step reads; "
            f"give those of this command in the order {order}"
        )


def recorded_stores(store: OpenStore) -> dict[str, Any]:
    """What a projector records of several stores under `trained_for`: `stores`, a list; nothing of one."""
    if isinstance(store, Store):
        return {}
    made = [each.identity for each in store.stores]
    return {"stores": [{"manifest_sha256": each.manifest_sha256, "split": each.split} for each in made]}


def _compared(store: Store) -> dict[str, Any]:
    everything = store.identity.to_json()
    everything.pop("packages")
    return everything


def _identities(run: Mapping[str, Any]) -> list[bytes]:
    """The stores of a run's identity, comparable, in their order."""
    several = run.get("stores")
    if several is None:
        return [canonical(run.get("store"))]
    return [canonical(several[number]) for number in sorted(several, key=int)]
