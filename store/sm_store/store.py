"""The store: extracted once, read millions of times.

    store = Store.create("corpus.store", identity)
    store.add_target_set(spec, table, tokenizer_files)
    store.commit(0, records, rejects, {"smollm2": token_ids})        one shard, all or nothing

    store = Store.open("corpus.store")
    batch = store.read(store.select(split="train")[:32], targets="smollm2")
    batch.features_BTD, batch.targets_BUE                            padded arrays, ready for torch.from_numpy

An open store shows what was committed when it was opened (and what it has committed itself since): one version,
whatever other processes write meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sm_store import catalog, commit, document, durable, paths, targets
from sm_store.catalog import PartInfo
from sm_store.errors import StoreError, StoreFormatError, StoreMissing
from sm_store.geometry import Geometry
from sm_store.identity import Identity, diff_json, require_same
from sm_store.index import write_index
from sm_store.reading.files import ShardFiles
from sm_store.reading.reader import ChecksumPolicy
from sm_store.reading.remote import Cache, RemoteFiles, local_folder, url_of
from sm_store.reading.view import View
from sm_store.records import Batch, Record, Reject, TargetSpec
from sm_store.shards.shard_zarr import group_json
from sm_store.targets import TargetSet

_STORE_LOCK = "store"
_OWN = {*paths.FOLDERS, paths.GROUP, paths.LOCKS}


class Store:
    """An open feature store. Make one with `Store.create` or `Store.open`."""

    def __init__(self, files: ShardFiles, checksums: ChecksumPolicy) -> None:
        self.root = files.root
        self.identity, self._specs = document.read_store(files.root)
        self._policy: ChecksumPolicy = checksums
        self._held: set[int] = set()
        self._files = files
        _ = self._view  # errors in a store are raised when it is opened

    # -- making and opening ------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, identity: Identity) -> Store:
        """A new, empty store.

        Raises:
            StoreError: there is one already. StoreFormatError: the folder holds something else.
        """
        root = local_folder(path)
        if root.exists() and not root.is_dir():
            raise StoreFormatError(f"{root}: a file is there; choose another folder")
        durable.make_folder(root)
        with durable.locked(root, _STORE_LOCK, wait=True):
            if (root / paths.STORE).exists():
                raise StoreError(f"{root}: there is a store already; open it, or choose another folder")
            names = sorted(entry.name for entry in root.iterdir() if entry.name not in _OWN)
            foreign = [name for name in names if not durable.is_leftover(name)]
            if foreign:
                raise StoreFormatError(f"{root}: not a store and not empty ({foreign[0]}); choose another")
            for name in paths.FOLDERS:
                durable.make_folder(root / name)
            if identity.layout == "zarr":
                for group in paths.GROUPS:
                    durable.write_file(root / group, group_json())
            document.write_store(root, identity, {})
        return cls.open(root)

    @classmethod
    def open(cls, path: str | Path, checksums: ChecksumPolicy = "always", cache: Cache | None = None) -> Store:
        """Open a store to read, or to add to.

        Args:
            path: its folder, or any fsspec URL to only read it.
            cache: where shard files of a URL are kept; None: as environment variables say (`sm_store.reading.remote`).

        Raises:
            StoreMissing, StoreFormatError, StoreCorrupt: before any record is used.
        """
        url = url_of(path)
        return cls(RemoteFiles(url, cache or Cache.default()) if url else ShardFiles(Path(path)), checksums)

    @property
    def path(self) -> str:
        """The folder or URL that it was opened from."""
        return self._files.where("")

    @classmethod
    def open_or_create(cls, path: str | Path, identity: Identity) -> Store:
        """Continue the store at `path` if it has the same identity, or create it.

        Raises:
            IdentityMismatch: with the difference.
        """
        root = local_folder(path)
        if not (root / paths.STORE).exists():
            try:
                return cls.create(root, identity)
            except StoreFormatError:
                raise
            except StoreError:
                pass  # another process was faster: it is a store now, checked against ours below
        store = cls.open(root)
        store.identity.require_same(identity, str(root))
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self._files, self._policy)

    # -- reading -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        sets = f", targets: {', '.join(self.target_names)}" if self.target_names else ""
        encoder = self.identity.encoder.get("id", "an encoder")
        kind = f"{self.identity.width} {self.identity.dtype}"
        return f"<Store {self.path}: {len(self)} records of {kind} from {encoder}{sets}>"

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, index: int) -> Record:
        return self._view.record(index)

    def __iter__(self) -> Iterator[Record]:
        view = self._view
        return (view.record(index) for index in range(len(view)))

    @property
    def frames(self) -> np.ndarray:
        """(records,) int64: feature frames of each record."""
        return self._view.frames

    @property
    def lengths(self) -> np.ndarray:
        """The same as `frames`: what a loader budgets by."""
        return self._view.frames

    @property
    def parts(self) -> Sequence[PartInfo]:
        """The description of each committed shard, ascending."""
        return self._view.contents.parts

    @property
    def starts(self) -> np.ndarray:
        """(shards + 1,) int64: position of the first record of each of `parts`, and the end."""
        return self._view.contents.starts

    @property
    def catalog(self) -> pa.Table:
        """The whole catalog, text columns included, one row per record in order."""
        return self._view.columns(catalog.schema_of(self.identity).names)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of the catalog, one row per record in order; read on first use."""
        return self._view.columns(names)

    def select(self, **where: str | None) -> np.ndarray:
        """Positions, ascending int64, of records whose fields have these values: `select(split="train")`."""
        keep = np.ones(len(self), np.bool_)
        for name, value in where.items():
            column = self.columns([name]).column(name)
            match = pc.is_null(column) if value is None else pc.fill_null(pc.equal(column, value), False)
            keep &= match.to_numpy()
        return np.flatnonzero(keep)

    def read(
        self,
        indices: Sequence[int] | np.ndarray,
        targets: str | None = None,
        pin: bool = False,
        geometry: Geometry | None = None,
    ) -> Batch:
        """A padded batch of the records at `indices`, in that order, with the rows of a target set if one is named.

        Args:
            indices: positions as integers, (B,); of a mask: np.flatnonzero(mask).
            pin: into page-locked memory, for fast copies to a GPU; needs torch imported by the caller.
            geometry: pad the targets for vectors of another geometry than the set's own; a text that is longer
                than that loses its end.

        Raises:
            StoreCorrupt: names shard and record. StoreMissing: no such target set, or not for every shard.
            StoreError: indices that are no integers. IndexError: beyond the store.
        """
        return self._view.read(indices, self.targets(targets) if targets else None, pin, geometry)

    def shard(self, ordinal: int) -> tuple[list[Record], list[Reject]]:
        """All records and rejects of one of `parts`: a whole shard in memory."""
        return self._view.shard(ordinal)

    def shard_token_ids(self, ordinal: int, name: str) -> list[np.ndarray]:
        """A target set's token ids for the records of one of `parts`; an empty array: no target."""
        return self._view.shard_token_ids(ordinal, self.targets(name))

    # -- targets -----------------------------------------------------------------------------------------

    @property
    def target_names(self) -> list[str]:
        """Names of the target sets."""
        return sorted(self._specs)

    def targets(self, name: str) -> TargetSet:
        """A target set: its spec, embedding table, tokenizer. Raises StoreMissing."""
        if name not in self._specs:
            there = ", ".join(self.target_names) or "none"
            remedy = "add it with `sm-pipeline embed`"
            raise StoreMissing(f"{self.path}: no target set {name!r} (there: {there}); {remedy}")
        return TargetSet(self.root, self._specs[name])

    def token_counts(self, name: str) -> np.ndarray:
        """(records,) int64: tokens of each record; 0 = its text is too long for its frames, it has no target.

        Raises:
            StoreMissing: no such target set, or shards without it.
        """
        return self._view.target(self.targets(name)).tokens.stream.counts.astype(np.int64)

    def add_target_set(self, spec: TargetSpec, table: np.ndarray, tokenizer_files: Mapping[str, bytes]) -> None:
        """Add a target set, without targets of any shard yet; does nothing if the same set is there already.

        Args:
            table: (V, E) floats, the LLM's input-embedding table.
            tokenizer_files: contents by plain file name.

        Raises:
            IdentityMismatch: a target set of that name is there and differs.
        """
        document.check_target_name(spec.name)
        if spec.dtype != self.identity.dtype:
            raise StoreError(f"target set {spec.name!r}: dtype {spec.dtype}, the store's is {self.identity.dtype}")
        zarr = self.identity.layout == "zarr"
        with self._locked(_STORE_LOCK, wait=True):
            _, specs = document.read_store(self.root)
            if spec.name in specs:
                what = f"{self.root} target set {spec.name!r}"
                require_same(diff_json(specs[spec.name].to_json(), spec.to_json()), what)
            else:
                folder = self.root / paths.target_folder(spec.name)
                targets.write_target_set(folder, spec, table, tokenizer_files, zarr)
                document.write_store(self.root, self.identity, {**specs, spec.name: spec})
        self._specs[spec.name] = spec

    def drop_target_set(self, name: str) -> None:
        """Remove a target set; features stay as they are. Raises StoreMissing."""
        self.targets(name)
        with self._locked(_STORE_LOCK, wait=True):
            _, specs = document.read_store(self.root)
            specs.pop(name, None)
            document.write_store(self.root, self.identity, specs)
            durable.remove(self.root / paths.target_folder(name))
        self._specs.pop(name)
        self.refresh()

    # -- writing -----------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        """Hold a shard while making it; yields False if it is committed already.

        Raises:
            StoreBusy: another process holds it.
        """
        with self._locked(paths.shard_lock(shard)):
            self._held.add(shard)
            try:
                yield not catalog.is_committed(self.root, shard)
            finally:
                self._held.discard(shard)

    def commit(
        self,
        shard: int,
        records: Sequence[Record],
        rejects: Sequence[Reject],
        token_ids: Mapping[str, Sequence[np.ndarray]] | None = None,
    ) -> None:
        """Write one shard, all or nothing: records in order, rejects, token ids per target set and record.

        Raises:
            StoreError: committed already, or something does not fit. StoreBusy: another writer has the shard.
        """
        chosen = [(self.targets(name), ids) for name, ids in (token_ids or {}).items()]
        with self._hold(shard):
            if catalog.is_committed(self.root, shard):
                raise StoreError(f"{self.root}: shard {shard} is committed already; shards are never changed")
            commit.write_shard(self.root, self.identity, shard, (records, rejects), chosen)
        self.refresh()

    def commit_targets(
        self,
        name: str,
        shard: int,
        token_ids: Sequence[np.ndarray],
        rejects: Sequence[Reject] = (),
    ) -> list[Reject]:
        """Add a target set's rows to a committed shard, one array of token ids per record.

        A record whose text does not fit (tokens + 1 > its vectors) gets no target (0 tokens) and is listed in
        `targets/NAME/ledger`; those are returned.

        Args:
            rejects: records without token ids whose text was found not to fit before, when copying a store.
        """
        target = self.targets(name)
        with self._hold(shard):
            return commit.write_missing_targets(self.root, self.identity, target, shard, (token_ids, rejects))

    def compact(self) -> None:
        """Index the catalogs of many shards, so that the store opens in seconds: after an extraction."""
        with self._locked("index", wait=True):
            write_index(self.root, catalog.schema_of(self.identity), self.identity.sha256())
            for name, spec in self._specs.items():
                schema = catalog.TARGET_SCHEMAS[spec.kind]
                write_index(self.root, schema, self.targets(name).fingerprint(), name)

    # -- state -------------------------------------------------------------------------------------------

    def done_shards(self, targets: str | None = None) -> set[int]:
        """Shards committed by now (by anyone); with a target set's name, those that have its rows."""
        return set(catalog.committed_shards(self.root, targets))

    def rejects(self) -> list[Reject]:
        """Every rejected utterance that no later shard holds, in shard order."""
        return self._view.rejects()

    def refresh(self) -> None:
        """Show what has been committed since the store was opened."""
        self.__dict__.pop("_view", None)

    @cached_property
    def _view(self) -> View:
        return View(self.identity, self._files, self._policy)

    def _locked(self, name: str, wait: bool = False) -> AbstractContextManager[None]:
        """A writers' lock; whoever writes takes one, so a remote store refuses here."""
        return durable.locked(self.root if self._files.at_hand else local_folder(self.path), name, wait)

    @contextmanager
    def _hold(self, shard: int) -> Iterator[None]:
        if shard in self._held:
            yield
        else:
            with self._locked(paths.shard_lock(shard)):
                yield
