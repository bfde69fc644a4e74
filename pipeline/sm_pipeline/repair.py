"""Repair: what `verify` finds bad is made again, and nothing else.

    summary = repair(Path("corpus.store"))
    summary.in_words()        corpus.store: 2 damages; extracted again: shards 3, 7; ...; every byte as written

    verify --damages--> discard --bad shards--> extract, as `extract.json` says --> embed the other targets --> verify

Manifest, encoder and LLM are found good before anything is discarded. What is made again has the bytes it had.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sm_pipeline.config import TargetConfig
from sm_pipeline.embed import embed_shards
from sm_pipeline.extract import Job, make_identity, prepare, run_job, worker_setup
from sm_pipeline.inspection import verify_store, verify_words
from sm_pipeline.recipe import load_recipe
from sm_pipeline.targets import Targets, build_targets
from sm_store import Store, document
from sm_store.errors import RunFailed
from sm_store.identity import diff_json, require_same
from sm_store.records import TargetSpec
from sm_store.targets import restore_target_set
from sm_store.verify import Damage, VerifyReport, discard


@dataclass(frozen=True, slots=True)
class RepairSummary:
    """What was bad and is good again.

    Attributes:
        damages: found. shards: extracted again. targets: shards embedded again, by target set.
        restored: target sets whose table, tokenizer or description was written again.
        checked: the final `verify` in a sentence.
    """

    store: str
    damages: int
    shards: list[int]
    targets: dict[str, list[int]]
    restored: list[str]
    checked: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        if not self.damages:
            return f"{self.store}: nothing to repair; {self.checked}"
        done = [f"{self.damages} damages"]
        if self.shards:
            done.append(f"extracted again: shards {', '.join(map(str, self.shards))}")
        done += [f"targets {name} again: shards {', '.join(map(str, each))}" for name, each in self.targets.items()]
        if self.restored:
            done.append(f"written again: the files of target sets {', '.join(self.restored)}")
        return f"{self.store}: {'; '.join(done)}; now {self.checked}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be made again, all of it known to be possible.

    Attributes:
        shards: whose features are bad. targets: further shards with bad targets, by set.
        job: the extraction, prepared; None where no shard is bad. with_features: the set it writes too.
        restore: target sets whose own files are bad.
    """

    shards: list[int]
    targets: dict[str, list[int]]
    job: Job | None
    with_features: str | None
    restore: list[Targets]


def repair(path: Path, manifest: Path | None = None, device: str = "auto") -> RepairSummary:
    """Make again what is damaged.

    Args:
        manifest: where it lies, if it was moved since the extraction.

    Raises:
        StoreError: no store there, or store.json itself is damaged. StoreMissing: not made by an extraction.
        ManifestError, ModelError, IdentityMismatch: it cannot be made again; nothing was discarded.
        RunFailed: damages are left.
    """
    found = verify_store(path)
    if found.ok:
        return RepairSummary(str(path), 0, [], {}, [], verify_words(found))
    plan = _plan(path, found, manifest, device)
    bad = tuple(Damage("", "", shard) for shard in plan.shards)
    discard(path, replace(found, damages=(*found.damages, *bad)))
    for targets in plan.restore:
        restore_target_set(path, targets.spec, targets.llm.table_VE, targets.llm.tokenizer_files)
    if plan.job is not None:
        run_job(plan.job, worker_setup(plan.job, plan.with_features), set(plan.shards))
    _embed(path, plan)
    left = verify_store(path)
    if not left.ok:
        count = f"{len(left.damages)} damages are left"
        raise RunFailed(f"{path}: {count} (first: {left.damages[0]}); `sm-pipeline verify` names them")
    restored = [targets.spec.name for targets in plan.restore]
    return RepairSummary(str(path), len(found.damages), plan.shards, plan.targets, restored, verify_words(left))


def _plan(path: Path, found: VerifyReport, manifest: Path | None, device: str) -> Plan:
    identity, specs = document.read_store(path)
    targets = found.bad_targets()
    shards = set(found.bad_shards())
    job, with_features = None, None
    if shards or targets:
        recipe = load_recipe(path)
        with_features = recipe.targets if recipe.targets in specs else None
        shards |= set(targets.pop(with_features, [])) if with_features is not None else set()
        if shards:
            job = prepare(recipe.config(path, identity, device, manifest))
            identity.require_same(make_identity(job), str(path))
    restore = [_targets(specs[name]) for name in sorted(_damaged_sets(found.damages))]
    return Plan(sorted(shards), targets, job, with_features, restore)


def _damaged_sets(damages: Sequence[Damage]) -> Collection[str]:
    """Target sets whose own files are damaged."""
    return {each.target for each in damages if each.target is not None and each.shard is None and not each.is_index}


def _targets(spec: TargetSpec) -> Targets:
    """The target set of a spec, read from its LLM once more. Raises IdentityMismatch where that has changed."""
    llm = spec.llm if spec.revision is None or "@" in spec.llm else f"{spec.llm}@{spec.revision}"
    config = TargetConfig(llm, spec.kind, spec.name, spec.pad_token, spec.geometry)
    targets = build_targets(config, spec.dtype)
    require_same(diff_json(spec.to_json(), targets.spec.to_json()), f"target set {spec.name!r}")
    return targets


def _embed(path: Path, plan: Plan) -> None:
    """Targets of the shards that have none now but had some: texts and tokenizer are in the store."""
    store = Store.open(path)
    done = store.done_shards()
    for name in store.target_names:
        lost = {*plan.targets.get(name, []), *plan.shards}
        lacking = sorted((lost & done) - store.done_shards(name))
        if lacking:
            embed_shards(store, name, lacking)
    store.compact()
