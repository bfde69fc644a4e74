"""Repair: extract again what `verify` finds damaged, and nothing else.

    summary = repair(Path("corpus.store"))
    summary.in_words()        corpus.store: 2 damages; extracted again: shards 3, 7; ...; every byte as written

    verify --damages--> note, discard --bad shards--> extract, as `extract.json` says --> embed later targets --> verify

Manifest, encoder and LLM are checked before anything is discarded. What is extracted again has the same bytes as
before. `repair.json` lists what was discarded and is not back yet, so an interrupted repair continues when run again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from sm_pipeline.config import TargetConfig
from sm_pipeline.extraction.embed import embed_shards, lacking_shards
from sm_pipeline.extraction.extract import Job, make_identity, prepare, run_job, worker_setup
from sm_pipeline.extraction.llm_targets import Targets, build_targets
from sm_pipeline.extraction.recipe import load_recipe
from sm_pipeline.whole_store import verify_store, verify_words
from sm_store import Store, document
from sm_store.catalog import committed_shards, is_committed, read_part
from sm_store.durable import locked, remove, write_file
from sm_store.errors import RunFailed
from sm_store.identity import diff_json, require_same
from sm_store.paths import RECIPE, REPAIR
from sm_store.records import TargetSpec
from sm_store.targets import TargetSet, restore_target_set
from sm_store.verify import Damage, VerifyReport, discard


@dataclass(frozen=True, slots=True)
class RepairSummary:
    """What was damaged and has been repaired.

    Attributes:
        damages: found. shards: extracted again. targets: shards embedded again, by target set.
        restored: target sets whose table, tokenizer or description was written again.
        dropped: shards of retried utterances, which are rejects again.
        checked: the final `verify` in a sentence.
    """

    store: str
    damages: int
    shards: list[int]
    targets: dict[str, list[int]]
    restored: list[str]
    dropped: list[int]
    checked: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        if not (self.damages or self.shards or self.targets):
            return f"{self.store}: nothing to repair; {self.checked}"
        done = [f"{self.damages} damages" if self.damages else "a repair that was interrupted"]
        if self.shards:
            done.append(f"extracted again: shards {', '.join(map(str, self.shards))}")
        done += [f"targets {name} again: shards {', '.join(map(str, each))}" for name, each in self.targets.items()]
        if self.restored:
            done.append(f"written again: the files of target sets {', '.join(self.restored)}")
        if self.dropped:
            shards = ", ".join(map(str, self.dropped))
            done.append(f"dropped: shards {shards} of retried utterances; `sm-pipeline retry` makes them again")
        return f"{self.store}: {'; '.join(done)}; now {self.checked}"


@dataclass(frozen=True, slots=True)
class Lost:
    """What has to be extracted or embedded again.

    Attributes:
        shards: to extract, each with the target set that was written with its features, if one was.
        targets: shards to embed, by target set: those it was added to later.
    """

    shards: Mapping[int, str | None]
    targets: Mapping[str, list[int]]

    def note(self, store: Path) -> None:
        """Write `repair.json` before anything is discarded: until it is back, nothing else records it."""
        write_file(store / REPAIR, document.encode({"shards": list(self.shards.items()), "targets": self.targets}))

    @classmethod
    def noted(cls, store: Path, names: Collection[str]) -> Lost:
        """What an interrupted repair had discarded and not made again, of the target sets `names`."""
        if not (store / REPAIR).is_file():
            return cls({}, {})
        data = document.read(store / REPAIR)
        done = set(committed_shards(store))
        targets = {name: set(committed_shards(store, name)) for name in names}
        return cls(
            {shard: name if name in names else None for shard, name in data["shards"] if shard not in done},
            {name: sorted(set(data["targets"].get(name, ())) - made) for name, made in targets.items()},
        )

    def union(self, other: Lost) -> Lost:
        """What is lost in this or the other, without repeats and in order."""
        names = sorted({*self.targets, *other.targets})
        targets = {name: sorted({*self.targets.get(name, ()), *other.targets.get(name, ())}) for name in names}
        shards = {**self.shards, **other.shards}
        return Lost(dict(sorted(shards.items())), {name: each for name, each in targets.items() if each})


@dataclass(frozen=True, slots=True)
class Plan:
    """How the damage is repaired; all of it was checked to be possible.

    Attributes:
        job: the extraction, prepared; None where no shard is bad. restore: target sets whose own files are bad.
        dropped: shards of retried utterances that are bad, or that a shard made again may hold.
    """

    lost: Lost
    job: Job | None
    restore: list[Targets]
    dropped: list[int]


def repair(
    path: Path, manifest: Path | None = None, device: str = "auto", audio_root: Path | None = None
) -> RepairSummary:
    """Repair a store. Interrupted, the same call continues.

    Args:
        manifest: where it is now, if it was moved after the extraction.
        audio_root: the folder that audio paths are relative to, if it is another than in the extraction.

    Raises:
        StoreError: no store there, or store.json itself is damaged. StoreMissing: not made by an extraction.
        ManifestError, ModelError, IdentityMismatch: it cannot be repaired; nothing was discarded.
        StoreBusy: another process repairs it. RunFailed: damages are left.
    """
    found = verify_store(path)
    if found.ok and not (path / REPAIR).exists():
        return RepairSummary(str(path), 0, [], {}, [], [], verify_words(found))
    with locked(path, "repair"):
        plan = _plan(path, found, (manifest, audio_root), device)
        plan.lost.note(path)
        _make_again(path, found, plan)
        left = verify_store(path)
        _require_whole(path, left)
        remove(path / REPAIR)
    restored = [targets.spec.name for targets in plan.restore]
    shards, targets = sorted(plan.lost.shards), dict(plan.lost.targets)
    return RepairSummary(str(path), len(found.damages), shards, targets, restored, plan.dropped, verify_words(left))


def _plan(path: Path, found: VerifyReport, places: tuple[Path | None, Path | None], device: str) -> Plan:
    """How to repair what was found.

    Args:
        places: where the manifest and its audio are now, if not as in the extraction.
    """
    identity, specs = document.read_store(path)
    lost = _lost(path, found)
    job = None
    if lost.shards:
        job = prepare(load_recipe(path).config(path, identity, device, *places))
        identity.require_same(make_identity(job, identity.normalizer), str(path))
    restore = [_targets(specs[name]) for name in sorted(_damaged_sets(found.damages))]
    return Plan(lost, job, restore, _dropped(path, found, lost, job))


def _dropped(path: Path, found: VerifyReport, lost: Lost, job: Job | None) -> list[int]:
    """Shards of retried utterances to discard: the bad ones, and where an utterance was first in a shard that is made
    again, which may hold it now that its audio is good."""
    retried = [shard for shard in committed_shards(path) if _is_retried(path, shard)]
    bad = {*found.bad_shards(), *chain.from_iterable(found.bad_targets().values())}
    units = [unit for unit in job.units if unit.shard in lost.shards] if job is not None else []
    again = {each.id for unit in units for each in job.utterances[unit.start : unit.stop]} if job is not None else set()
    return [shard for shard in retried if shard in bad or again & set(_ids(path, shard))]


def _is_retried(path: Path, shard: int) -> bool:
    """Whether a shard lies beyond the plan."""
    planned = document.read_store(path)[0].plan.get("shards")
    return isinstance(planned, int) and shard >= planned


def _ids(path: Path, shard: int) -> list[str]:
    _, table = read_part(path, shard, ["id"])
    ids: list[str] = table.column("id").to_pylist()
    return ids


def _lost(path: Path, found: VerifyReport) -> Lost:
    """What is damaged, and what an interrupted repair left to do."""
    _, specs = document.read_store(path)
    sets = [TargetSet(path, spec) for _, spec in sorted(specs.items())]
    bad, bad_shards = found.bad_targets(), set(found.bad_shards())
    shards: dict[int, str | None] = {}
    targets: dict[str, list[int]] = {each.name: [] for each in sets}
    for shard in sorted({*bad_shards, *chain.from_iterable(bad.values())}):
        if _is_retried(path, shard):
            continue
        later = {each.name for each in sets if each.added_later(shard)}
        bad_here = {name for name, each in bad.items() if shard in each}
        whole = shard in bad_shards or not bad_here <= later
        if whole:
            shards[shard] = _written_with(path, shard, [each for each in sets if each.name not in later])
        for name in later if whole else bad_here:
            targets[name].append(shard)
    return Lost.noted(path, specs).union(Lost(shards, targets))


def _written_with(path: Path, shard: int, sets: Sequence[TargetSet]) -> str | None:
    """Which of the target sets that were not added later was written with a shard's features."""
    there = [each.name for each in sets if is_committed(path, shard, each.name)]
    if not there and (path / RECIPE).is_file():  # its part is lost, too
        there = [each.name for each in sets if each.name == load_recipe(path).targets]
    return there[0] if there else None


def _damaged_sets(damages: Sequence[Damage]) -> Collection[str]:
    """Target sets whose own files are damaged."""
    return {each.target for each in damages if each.target is not None and each.shard is None and not each.is_index}


def _targets(spec: TargetSpec) -> Targets:
    """The target set of a spec, read from its LLM once more. Raises IdentityMismatch where that has changed."""
    llm = spec.llm if spec.revision is None or "@" in spec.llm else f"{spec.llm}@{spec.revision}"
    config = TargetConfig(llm, spec.kind, spec.name, spec.pad_token, spec.geometry)
    targets = build_targets(config, spec.dtype, spec.normalizer)
    require_same(diff_json(spec.to_json(), targets.spec.to_json()), f"target set {spec.name!r}")
    return targets


def _make_again(path: Path, found: VerifyReport, plan: Plan) -> None:
    """Discard what is bad, write the files of target sets, extract, and embed what was added later."""
    lost = plan.lost
    bad = tuple(Damage("", "", shard) for shard in (*lost.shards, *plan.dropped))
    discard(path, replace(found, damages=(*found.damages, *bad)))
    for targets in plan.restore:
        restore_target_set(path, targets.spec, targets.llm.table_VE, targets.llm.tokenizer_files)
    if plan.job is not None:
        for name in sorted(set(lost.shards.values()), key=str):
            only = {shard for shard, written_with in lost.shards.items() if written_with == name}
            run_job(plan.job, worker_setup(plan.job, name), only)
    store = Store.open(path)
    for name, shards in lost.targets.items():
        embed_shards(store, name, [shard for shard in lacking_shards(store, name) if shard in set(shards)])
    store.compact()


def _require_whole(path: Path, left: VerifyReport) -> None:
    """Raises RunFailed where something is bad still, or was left to another process."""
    if not left.ok:
        count = f"{len(left.damages)} damages are left"
        raise RunFailed(f"{path}: {count} (first: {left.damages[0]}); `sm-pipeline verify` names them")
    rest = _lost(path, left)
    waiting = sorted({*rest.shards, *chain.from_iterable(rest.targets.values())})
    if waiting:
        shards = ", ".join(map(str, waiting))
        raise RunFailed(f"{path}: another process is writing shards {shards}; run `sm-pipeline repair` again after it")
