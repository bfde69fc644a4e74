"""What a run reads from its stores: which utterances it trains on, in which order, and which it validates on.

    manifest with splits      train on `train`, validate on `dev`
    without                   train on everything, no validation
    --split S                 train on S
    several stores            the same for each of them: one without splits is all trained on

Utterances that cannot be trained on (no target, more frames than allowed) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from sm_store import Geometry, Store, TargetSet, TargetSpec
from sm_store.errors import ConfigError
from speechmapper.config import DataConfig
from speechmapper.loader.epoch import Budget, LeftOut, Order, usable
from speechmapper.loader.prefetch import Source
from speechmapper.loader.stores import OpenStore, Stores, open_stores
from speechmapper.loader.target_sets import choose_targets

StorePaths = Path | Sequence[Path]  # of one store, or of several that are read as one, in this order
TRAIN_SPLIT, DEV_SPLIT, TEST_SPLIT = "train", "dev", "test"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The open store, or stores, with what to read from it.

    Attributes:
        source: the stores, the target set in use and the projector's geometry.
        spec: of the target set.
        order: training micro-batches by step.
        dev: store indices (n,) of the validation utterances that have a target, possibly none.
        left_out: counts of the training split's utterances that are not used.
        split: the training split's name, None where no manifest has splits.
        notes: lines for the log about several stores; empty for one.
    """

    source: Source
    spec: TargetSpec
    order: Order
    dev: np.ndarray
    left_out: LeftOut
    split: str | None
    notes: Sequence[str] = ()

    @property
    def store(self) -> OpenStore:
        return self.source.store

    @property
    def targets(self) -> TargetSet:
        """The target set in use."""
        return self.store.targets(self.spec.name)

    def again(self) -> Source:
        """A second source with stores of its own, for use in another thread than the one that reads for training."""
        store = self.store
        fresh = store.reopened() if isinstance(store, Stores) else Store.open(store.path)
        return Source(fresh, self.source.target, self.source.geometry)


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which data a run reads.

    Attributes:
        store: a folder or URL, or several. target: name of the target set, in one of the stores; None where there is
            just one that all have.
        split: what to train on; None: `train` where the manifest has splits.
    """

    store: StorePaths
    target: str | None = None
    split: str | None = None

    @property
    def paths(self) -> Sequence[Path]:
        """Where the stores are."""
        return paths_of(self.store)


def paths_of(store: StorePaths) -> Sequence[Path]:
    """The paths of one store or of several."""
    return [store] if isinstance(store, Path) else list(store)


def open_data(
    request: DataRequest,
    geometry: Geometry,
    config: DataConfig,
    seed: int,
    matching: Callable[[Store], str | None] | None = None,
) -> TrainingData:
    """Open the stores for training.

    Args:
        geometry: of the projector: how many vectors an utterance gets.
        matching: the target set to prefer of a store, where the request names none.

    Raises:
        StoreError: no usable store. StoreMissing: no such target set. ConfigError: nothing to train on.
        IdentityMismatch: stores that do not belong together; names two of them.
    """
    stores = open_stores(request.paths)
    targets = choose_targets(stores, request.target, matching)
    store: OpenStore = Stores(stores, targets) if len(stores) > 1 else stores[0]
    source = Source(store, targets[0], geometry)
    budget = Budget(
        config.frames,
        config.max_frames,
        config.max_utterances,
        config.micro_batches,
        config.window,
        config.bucket_utterances,
    )
    splits = [choose_split(each, request.split, TRAIN_SPLIT) for each in stores]
    chosen = next((split for split in splits if split is not None), None)
    indices = _of_splits(stores, splits)
    keep, left_out = _usable(source, indices, budget)
    if not keep.any():
        raise ConfigError(
            f"{store.path}: nothing to train on in split {chosen or '(all)'}: {len(indices)} utterances, "
            f"{left_out}; check --split, --target and data.max_frames"
        )
    indices = indices[keep]
    shards = np.asarray(store.columns(["shard"])["shard"])[indices]
    order = Order(indices, store.frames[indices], shards, budget, seed)
    order.locate(0)  # raises where the data is too little for one step, before an LLM is loaded
    dev = store.select(split=DEV_SPLIT) if chosen != DEV_SPLIT else indices[:0]
    has_target, _ = _usable(source, dev, Budget(int(store.frames.max())))
    dev = dev[has_target]
    notes = _notes(store, splits, indices, dev) if isinstance(store, Stores) else ()
    return TrainingData(source, store.targets(targets[0]).spec, order, dev, left_out, chosen, notes)


def _of_splits(stores: Sequence[Store], splits: Sequence[str | None]) -> np.ndarray:
    """Positions (n,), int64, of each store's split in all of them; of all its records where it has no splits."""
    chosen, offset = [], 0
    for store, split in zip(stores, splits, strict=True):
        own = store.select(split=split) if split else np.arange(len(store), dtype=np.int64)
        chosen.append(own + offset)
        offset += len(store)
    return np.concatenate(chosen)


def _notes(store: Stores, splits: Sequence[str | None], indices: np.ndarray, dev: np.ndarray) -> list[str]:
    """What the log says of several stores: how much each gives, and ids that more than one has."""
    counts = np.histogram(indices, store.offsets)[0].tolist()
    given = zip(store.stores, counts, splits, strict=True)
    shown = (f"{each.path} {count:,}{'' if split else ' (has no splits)'}" for each, count, split in given)
    notes = [f"utterances of each store: {', '.join(shown)}"]
    ids = store.columns(["id"])["id"]
    repeated = int(pc.sum(pc.greater(pc.value_counts(ids).field("counts"), 1)).as_py() or 0)
    if repeated:
        both = pc.is_in(ids.take(dev), value_set=ids.take(indices))
        trained = int(pc.sum(both).as_py() or 0)
        notes.append(f"ids in more than one store: {repeated:,}; used for training and for validation: {trained:,}")
    return notes


def choose_split(store: Store, split: str | None, default: str) -> str | None:
    """The requested split, else `default` where the manifest has splits, else None (everything).

    Raises:
        ConfigError: the store has no utterance of that split.
    """
    present = sorted(name for name in store.columns(["split"])["split"].unique().to_pylist() if name is not None)
    return split_of(present, split, default, store.path)


def split_of(present: Sequence[str], split: str | None, default: str, what: str) -> str | None:
    """`choose_split` from the names of the splits present; `what` names the store or manifest in errors."""
    if split is None and not present:
        return None
    wanted = split or default
    if wanted not in present:
        raise ConfigError(f"{what}: no split {wanted!r} (there: {', '.join(present) or 'none'}); choose with --split")
    return wanted


def _usable(source: Source, indices: np.ndarray, budget: Budget) -> tuple[np.ndarray, LeftOut]:
    frames = source.store.frames[indices]
    tokens = source.store.token_counts(source.target)[indices]
    return usable(frames, tokens, source.geometry.num_vectors(frames), budget)
