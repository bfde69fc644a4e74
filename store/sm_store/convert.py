"""Stores made from stores: another layout of one (`export`), several as one (`merge`).

    export("corpus.store", "corpus.tars", "webdataset")        the same records, rejects and targets in plain tars
    merge("all.store", ["librispeech.store", "voxpopuli.store"])      their shards one after the other

Shard by shard, each committed as an extraction commits it: stopped, the same call continues; finished, it does
nothing. Features, token ids and fields are copied bit for bit, so exporting there and back gives the same store.
One shard is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sm_store import catalog, ledger
from sm_store.errors import ConfigError, IdentityMismatch, StoreError, StoreMissing
from sm_store.identity import Identity, canonical, diff_json
from sm_store.records import Reject
from sm_store.status import status
from sm_store.store import Store

Progress = Callable[[int], None]
# What stores that are merged may differ in; libraries' versions are never compared.
_OF_ONE_STORE = frozenset({"manifest_sha256", "split", "plan", "packages", "layout"})


@dataclass(frozen=True, slots=True)
class Converted:
    """What an export or a merge made.

    Attributes:
        records, rejected, shards: in the new store. copied: shards made by this call.
        missing: shards that the sources still lack, so the new store lacks them too.
        targets: names of the target sets.
    """

    store: str
    layout: str
    records: int
    rejected: int
    shards: int
    copied: int
    missing: int
    targets: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        targets = f", targets {', '.join(self.targets)}" if self.targets else ""
        state = f"{self.store}: {self.records} records, {self.rejected} rejects in {self.shards} shards"
        done = f"; {self.copied} copied" if self.copied else "; finished before, nothing to do"
        missing = f"; {self.missing} shards are not in the source yet: run again when they are" if self.missing else ""
        return f"{state} ({self.layout}{targets}){done}{missing}"


def export(source: str | Path, out: str | Path, layout: str, progress: Progress | None = None) -> Converted:
    """Make or continue a copy of a store in another layout.

    Args:
        progress: called with the number of records copied since the last call.

    Raises:
        StoreError: no store at `source`, a damaged one, or a target set that lacks shards.
        IdentityMismatch: the store at `out` was made from something else.
    """
    store = Store.open(source)
    _require_elsewhere([Path(source)], Path(out))
    _require_complete(store, store.target_names)
    made = Store.open_or_create(out, replace(store.identity, layout=layout))
    copied = _copy(store, made, store.target_names, 0, progress or (lambda _: None))
    return _converted(made, copied)


def merge(
    out: str | Path,
    sources: Sequence[str | Path],
    layout: str | None = None,
    targets: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Make or continue one store of several, whose shards follow each other in the order given.

    Args:
        layout: of the new store; None: the first source's.
        targets: target sets to copy; None: all, which then must be in every source and be the same.

    Raises:
        StoreError: as `export`, or an id that is in two of them. IdentityMismatch: with the difference.
    """
    stores = [Store.open(source) for source in sources]
    if len(stores) < 2:
        raise ConfigError("merge: name two stores or more")
    _require_elsewhere([Path(source) for source in sources], Path(out))
    names = _common_targets(stores, targets)
    identity = _merged_identity(stores, layout)
    _require_distinct_ids(stores)
    made = Store.open_or_create(out, identity)
    offset, copied = 0, 0
    for store in stores:
        copied += _copy(store, made, names, offset, progress or (lambda _: None))
        offset += planned_shards(store)
    return _converted(made, copied)


def planned_shards(store: Store) -> int:
    """Shards that the store's plan has, and those beyond it that are there."""
    planned = store.identity.plan.get("shards")
    return max([planned if isinstance(planned, int) else 0, *(shard + 1 for shard in store.done_shards())])


def _converted(made: Store, copied: int) -> Converted:
    made.compact()
    made.refresh()
    state = status(made)
    missing = len(state["shards"]["missing"])
    targets = tuple(made.target_names)
    where, layout = str(made.root), made.identity.layout
    return Converted(where, layout, len(made), state["rejected"], len(made.parts), copied, missing, targets)


def _copy(source: Store, out: Store, names: Sequence[str], offset: int, progress: Progress) -> int:
    """Copy every shard that `out` lacks; returns how many."""
    for name in names:
        target = source.targets(name)
        target.check_tokenizer()
        files = {path.name: path.read_bytes() for path in sorted(target.tokenizer_dir.iterdir())}
        out.add_target_set(target.spec, target.table, files)
    done = {name: out.done_shards(name) for name in names}
    copied = 0
    for ordinal, part in enumerate(source.parts):
        shard = part.shard + offset
        later = {name for name in names if source.targets(name).added_later(part.shard)}
        with out.claim(shard) as to_do:
            if to_do:
                records, rejects = source.shard(ordinal)
                early = {name: source.shard_token_ids(ordinal, name) for name in names if name not in later}
                out.commit(shard, records, rejects, early)
                copied += 1
            for name in names:
                # A shard that is there without them was copied before the set was there, or was requested.
                if name in later if to_do else shard not in done[name]:
                    ids = source.shard_token_ids(ordinal, name)
                    out.commit_targets(name, shard, ids, _target_rejects(source, name, part.shard))
        progress(int(source.starts[ordinal + 1] - source.starts[ordinal]))
    return copied


def _target_rejects(source: Store, name: str, shard: int) -> list[Reject]:
    """Records of a shard that are known not to get a target; only a set added after the features keeps them."""
    target = source.targets(name)
    part, _ = catalog.read_part(source.root, shard, [], name)
    return ledger.read(source.root, part, name) if target.added_later(shard) else []


def _require_elsewhere(sources: Sequence[Path], out: Path) -> None:
    for source in sources:
        if source.resolve() == out.resolve():
            raise ConfigError(f"{out}: is the source itself; name another folder")


def _require_complete(store: Store, names: Sequence[str]) -> None:
    for name in names:
        lacking = store.done_shards() - store.done_shards(name)
        if lacking:
            remedy = "run `sm-pipeline embed` again first"
            raise StoreMissing(f"{store.path}: target set {name!r} lacks {len(lacking)} shards; {remedy}")


def _common_targets(stores: Sequence[Store], wanted: Sequence[str] | None) -> list[str]:
    """Target sets that every store has, complete and equal."""
    first = stores[0]
    names = sorted({name for store in stores for name in store.target_names}) if wanted is None else list(wanted)
    remedy = "add it with `sm-pipeline embed`, or name with --target the sets to take along (--features-only: none)"
    for store in stores:
        for name in names:
            if name not in store.target_names:
                raise StoreMissing(f"{store.path}: no target set {name!r}, which another store has; {remedy}")
            diff = diff_json(first.targets(name).spec.to_json(), store.targets(name).spec.to_json())
            if diff:
                what = f"{first.path} and {store.path}: target sets {name!r} differ"
                raise IdentityMismatch(f"{what}: {'; '.join(diff)}; {remedy}")
        _require_complete(store, names)
    return names


def _merged_identity(stores: Sequence[Store], layout: str | None) -> Identity:
    """The identity that all share; manifest, split and plan say what was merged."""
    first = stores[0].identity
    for store in stores[1:]:
        diff = diff_json(first.to_json(), store.identity.to_json(), ignore=_OF_ONE_STORE)
        if diff:
            what = f"{stores[0].path} and {store.path} cannot be one store"
            raise IdentityMismatch(f"{what}, they were made differently: {'; '.join(diff)}")
    origins = [
        {"manifest_sha256": each.identity.manifest_sha256, "split": each.identity.split, "plan": each.identity.plan}
        for each in stores
    ]
    splits = {each.identity.split for each in stores}
    plan = {"shards": sum(planned_shards(store) for store in stores), "merged": origins}
    return replace(
        first,
        layout=layout or first.layout,
        manifest_sha256=hashlib.sha256(canonical(origins)).hexdigest(),
        split=first.split if len(splits) == 1 else None,
        plan=plan,
    )


def _require_distinct_ids(stores: Sequence[Store]) -> None:
    """An utterance is in a store once: in its records or its rejects."""
    columns = []
    for store in stores:
        rejected = pa.array([entry.id for entry in store.rejects()], pa.string())
        columns.append(pa.chunked_array([*store.columns(["id"]).column("id").chunks, rejected], pa.string()))
    whole = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    counts = pc.value_counts(whole)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        name = twice.field("values")[0].as_py()
        places = [store.path for store, ids in zip(stores, columns, strict=True) if pc.any(pc.equal(ids, name)).as_py()]
        there = " and ".join(places)
        raise StoreError(f"id {name!r} is in {there} ({len(twice)} such ids); ids must be unique in a store")
