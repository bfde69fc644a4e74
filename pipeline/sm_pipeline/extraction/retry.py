"""Retry: extract the rejected utterances again, and only those, after their audio was repaired or memory was added.

    retry(Path("corpus.store")).in_words()      corpus.store: 12 of 15 rejected utterances extracted into shards 40, ...

    reject ledger --ids--> manifest lines --units--> shards beyond the plan, with those that succeed

Committed shards are never changed: utterances that succeed now go into new shards, and an id that a later shard holds
no longer counts as rejected. Those rejected again stay in the ledger as they were. If none succeeds, no shard is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sm_pipeline.extraction.embed import embed_shards, lacking_shards
from sm_pipeline.extraction.extract import make_identity, prepare, run_job, worker_setup
from sm_pipeline.extraction.plan import plan_units
from sm_pipeline.extraction.recipe import load_recipe
from sm_pipeline.extraction.unit import UnitResult
from sm_store import Store
from sm_store.durable import locked
from sm_store.errors import ManifestError, RunFailed
from sm_store.reading.remote import local_folder
from sm_store.records import Reject


@dataclass(frozen=True, slots=True)
class RetrySummary:
    """What became of the rejected utterances.

    Attributes:
        tried: rejected before. extracted: in the store now. rejects: rejected again, by reason.
        shards: made for them.
    """

    store: str
    tried: int
    extracted: int
    rejects: dict[str, int]
    shards: list[int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        if not self.tried:
            return f"{self.store}: nothing is rejected, nothing to do"
        words = f"{self.store}: {self.extracted} of {self.tried} rejected utterances extracted"
        if self.shards:
            words += f" into shards {', '.join(map(str, self.shards))}"
        again = ", ".join(f"{reason} {number}" for reason, number in self.rejects.items())
        return f"{words}; rejected again {sum(self.rejects.values())} ({again})" if again else words


def retry(
    path: Path, manifest: Path | None = None, device: str = "auto", audio_root: Path | None = None
) -> RetrySummary:
    """Extract the rejected utterances again. Interrupted, the same call continues.

    Args:
        manifest: where it is now, if it was moved after the extraction.
        audio_root: the folder that audio paths are relative to, if it is another than in the extraction.

    Raises:
        StoreMissing: no store, or one that was not made by an extraction.
        ManifestError, ModelError, IdentityMismatch: the store cannot be continued.
        StoreBusy: another process retries or repairs it. RunFailed: a worker died.
    """
    store = Store.open(local_folder(path))
    with locked(store.root, "repair"):
        rejects = store.rejects()
        if not rejects:
            return RetrySummary(str(path), 0, 0, {}, [])
        recipe = load_recipe(path)
        job = prepare(recipe.config(path, store.identity, device, manifest, audio_root))
        store.identity.require_same(make_identity(job, store.identity.normalizer), str(path))
        wanted = {entry.id for entry in rejects}
        again = tuple(utterance for utterance in job.utterances if utterance.id in wanted)
        _require_all(path, rejects, {utterance.id for utterance in again})
        first = max([len(job.units), *(shard + 1 for shard in store.done_shards())])
        units = [replace(unit, shard=unit.shard + first) for unit in plan_units(again, job.rule)]
        setup = replace(worker_setup(job, recipe.targets), keep_rejects=False)
        _, results = run_job(replace(job, utterances=again, units=units), setup, {unit.shard for unit in units})
        store.refresh()
        for name in store.target_names:
            embed_shards(store, name, lacking_shards(store, name))
        store.compact()
    return _summary(path, len(rejects), results)


def _require_all(path: Path, rejects: Sequence[Reject], found: set[str]) -> None:
    lost = [entry.id for entry in rejects if entry.id not in found]
    if lost:
        raise ManifestError(
            f"{path}: {len(lost)} of its rejected utterances (first: {lost[0]!r}) are not in the manifest; name the "
            "manifest it was made of with --manifest"
        )


def _summary(path: Path, tried: int, results: Sequence[UnitResult]) -> RetrySummary:
    extracted = sum(result.written for result in results)
    rejects: dict[str, int] = {}
    for result in results:
        for reason, number in result.rejects.items():
            rejects[reason] = rejects.get(reason, 0) + number
    if extracted + sum(rejects.values()) != tried:
        raise RunFailed(f"{path}: {tried} were tried, {extracted} extracted and {sum(rejects.values())} rejected again")
    return RetrySummary(str(path), tried, extracted, rejects, sorted(each.shard for each in results if each.written))
