"""What a run reads from a store: which utterances it trains on, in which order, and which it validates on.

    manifest with splits      train on `train`, validate on `dev`
    without                   train on everything, no validation
    --split S                 train on S

Utterances that cannot be trained on (no target, more frames than allowed) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sm_store import Geometry, Store, TargetSet, TargetSpec
from sm_store.errors import ConfigError, StoreMissing
from speechmapper.config import DataConfig
from speechmapper.loader.epoch import Budget, LeftOut, Order, usable
from speechmapper.loader.prefetch import Source

TRAIN_SPLIT, DEV_SPLIT, TEST_SPLIT = "train", "dev", "test"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """An open store with what to read from it.

    Attributes:
        source: the store, the target set in use and the projector's geometry.
        spec: of the target set.
        order: training micro-batches by step.
        dev: store indices (n,) of the validation utterances that have a target, possibly none.
        left_out: counts of the training split's utterances that are not used.
        split: the training split's name, None where the manifest has none.
    """

    source: Source
    spec: TargetSpec
    order: Order
    dev: np.ndarray
    left_out: LeftOut
    split: str | None

    @property
    def store(self) -> Store:
        return self.source.store

    @property
    def targets(self) -> TargetSet:
        """The target set in use."""
        return self.store.targets(self.spec.name)

    def again(self) -> Source:
        """A second source with a store of its own, for use in another thread than the one that reads for training."""
        return Source(Store.open(self.store.path), self.source.target, self.source.geometry)


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which data a run reads.

    Attributes:
        store: a folder or URL. target: name of the target set; None where the store has just one.
        split: what to train on; None: `train` where the manifest has splits.
    """

    store: Path
    target: str | None = None
    split: str | None = None


def open_data(request: DataRequest, geometry: Geometry, config: DataConfig, seed: int) -> TrainingData:
    """Open a store for training.

    Args:
        geometry: of the projector: how many vectors an utterance gets.

    Raises:
        StoreError: no usable store. StoreMissing: no such target set. ConfigError: nothing to train on.
    """
    store = Store.open(request.store)
    source = Source(store, choose_target(store, request.target), geometry)
    spec = store.targets(source.target).spec
    budget = Budget(
        config.frames,
        config.max_frames,
        config.max_utterances,
        config.micro_batches,
        config.window,
        config.bucket_utterances,
    )
    chosen = choose_split(store, request.split, TRAIN_SPLIT)
    indices = store.select(split=chosen) if chosen else np.arange(len(store), dtype=np.int64)
    keep, left_out = _usable(source, indices, budget)
    if not keep.any():
        raise ConfigError(
            f"{request.store}: nothing to train on in split {chosen or '(all)'}: {len(indices)} utterances, "
            f"{left_out}; check --split, --target and data.max_frames"
        )
    indices = indices[keep]
    shards = np.asarray(store.columns(["shard"])["shard"])[indices]
    order = Order(indices, store.frames[indices], shards, budget, seed)
    order.locate(0)  # raises where the data is too little for one step, before an LLM is loaded
    dev = store.select(split=DEV_SPLIT) if chosen != DEV_SPLIT else indices[:0]
    has_target, _ = _usable(source, dev, Budget(int(store.frames.max())))
    return TrainingData(source, spec, order, dev[has_target], left_out, chosen)


def choose_target(store: Store, target: str | None) -> str:
    """The target set named by `--target`, or the only one. Raises StoreMissing or ConfigError."""
    names = store.target_names
    if target is not None and target not in names:
        raise StoreMissing(
            f"--target {target}: {store.path} has {', '.join(names) or 'no target set'}; "
            "add it with `sm-pipeline embed`"
        )
    if target is None and len(names) != 1:
        raise ConfigError(
            f"{store.path}: the store has {len(names)} target sets ({', '.join(names) or 'none'}); name one with "
            "--target, or add one with `sm-pipeline embed`"
        )
    return target or names[0]


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
