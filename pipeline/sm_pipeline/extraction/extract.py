"""Extraction: a manifest becomes a store, shard by shard; run again, it continues.

    summary = extract(ExtractConfig(manifest=Path("corpus/manifest.jsonl"), store=Path("corpus.store"),
                                    encoder="tiny-seamless", targets=TargetConfig("smollm2-135m")))
    summary.written, summary.rejects            1488, {"text_too_long": 12}

    manifest --plan--> work units --engine--> workers --unit--> committed shards

The store's identity (encoder, averaging, front end, manifest, plan) is determined first and must equal that of an
existing store, else `IdentityMismatch` with the difference. Units whose shard is committed are
skipped. Nothing is created before manifest, encoder and LLM were loaded without error.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sm_pipeline.announce import announced
from sm_pipeline.audio import RESAMPLER
from sm_pipeline.config import ExtractConfig
from sm_pipeline.console import progress
from sm_pipeline.devices import choose_dtype, dtype_name
from sm_pipeline.encoders import load_encoder
from sm_pipeline.encoders.base import Encoder
from sm_pipeline.extraction.embed import embed_shards, lacking_shards
from sm_pipeline.extraction.engines import ENGINES, Run
from sm_pipeline.extraction.llm_targets import build_targets, check_llm
from sm_pipeline.extraction.plan import UnitRule, WorkUnit, plan_units
from sm_pipeline.extraction.recipe import Recipe
from sm_pipeline.extraction.unit import UnitResult, UnitWork, WorkerSetup
from sm_pipeline.manifest import Manifest, Utterance, read_manifest
from sm_pipeline.signals import raise_on_signals
from sm_pipeline.text import NORMALIZER, NUMBERS
from sm_store import Identity, Store
from sm_store.catalog import committed_shards
from sm_store.dtypes import numpy_dtype
from sm_store.errors import IdentityMismatch, RunFailed
from sm_store.ledger import count
from sm_store.paths import STORE
from sm_store.space import require_space

RECORDED_PACKAGES = ("numpy", "soundfile", "soxr", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, and the state of the store after it.

    Attributes:
        utterances: chosen from the manifest.
        written, rejected, rejects: in the whole store, earlier runs included; `rejects` by reason.
        shards: of the plan. shards_done: committed by this run.
        hours: of audio encoded by this run. seconds: its wall time.
        x_realtime: that audio over the wall time of the units alone, without loading models.
        padding: share of the encoder's input that was padding.
        hours_per_device_hour: hours of audio per hour and GPU (on a CPU: core) while units were processed.
        halved: batches that did not fit into the GPU's memory.
        parts: seconds spent waiting for audio (read), encoding and committing, summed over workers.
        workers: processes of this run. device: what each computes on, `GPU` or `core`.
    """

    store: str
    utterances: int
    written: int
    rejected: int
    rejects: dict[str, int]
    shards: int
    shards_done: int
    hours: float
    seconds: float
    x_realtime: float
    padding: float
    hours_per_device_hour: float
    halved: int
    parts: dict[str, float]
    workers: int
    device: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        rejects = ", ".join(f"{reason} {number}" for reason, number in self.rejects.items())
        state = f"{self.store}: {self.written} of {self.utterances} utterances in {self.shards} shards"
        if rejects:
            state += f"; rejected {self.rejected} ({rejects})"
        if not self.shards_done:
            again = f"; `sm-pipeline retry {self.store}` tries the rejected ones again" if self.rejected else ""
            return f"{state}; already finished, nothing to do{again}"
        halved = f"; {self.halved} batches halved, a lower --batch-seconds avoids that" if self.halved else ""
        return (
            f"{state}\n{self.hours:.2f} hours of audio in {self.seconds:.0f} s, "
            f"{self.x_realtime:.0f} x real time, {self.workers} workers, {self.padding:.0%} padding, "
            f"{self.hours_per_device_hour:.0f} hours of audio per {self.device}-hour{halved}"
        )

    def failure(self, max_rejects: int | None) -> str | None:
        """Why the run has failed although it ended; None where it has not."""
        reasons = ", ".join(f"{reason}: {number}" for reason, number in self.rejects.items())
        if self.rejected >= self.utterances:
            missing = "audio_missing" in self.rejects
            root = "; where their folder was wrong, name the right one with --audio-root" if missing else ""
            return (
                f"every utterance was rejected ({reasons}); `sm-pipeline status {self.store}` names them{root}; "
                f"then `sm-pipeline retry {self.store}` extracts what can be read now"
            )
        if max_rejects is not None and self.rejected > max_rejects:
            return f"{self.rejected} utterances were rejected ({reasons}); --max-rejects allows {max_rejects}"
        return None


@dataclass(frozen=True, slots=True)
class Job:
    """An extraction with everything resolved: settings, manifest, encoder and work units."""

    config: ExtractConfig
    device: str
    manifest: Manifest
    utterances: tuple[Utterance, ...]
    encoder: Encoder
    rule: UnitRule
    units: list[WorkUnit]


def extract(config: ExtractConfig) -> Summary:
    """Create or continue the store.

    Raises:
        ManifestError, ModelError, ConfigError: bad input; no store was made.
        IdentityMismatch: the store was made with other settings.
        RunFailed: more rejects than allowed, or a worker died; what was committed stays.
    """
    started = time.monotonic()
    if config.targets is not None:
        check_llm(config.targets)  # a wrong name fails before minutes of loading
    job = prepare(config)
    there = Store.open(config.store).identity if (config.store / STORE).exists() else None
    identity = make_identity(job, choose_normalizer(config, there))
    if there is not None:
        require_continued(there, identity, config.store)  # before the LLM is read
    targets = None
    if config.targets is not None:
        targets = build_targets(config.targets, config.dtype, identity.normalizer)
    require_room(job, targets.spec.width if targets is not None else 0)
    store = Store.open_or_create(config.store, identity)
    name = targets.spec.name if targets is not None else None
    if targets is not None:
        targets.add_to(store)
        targets = None  # the table is in the store now, which maps it
    if name is not None:
        embed_shards(store, name, lacking_shards(store, name))  # of an earlier run without this LLM
    Recipe.of(config, name, config.batch_on(job.device)).save(store.root)
    units_started = time.monotonic()
    workers, results = run_job(job, worker_setup(job, name))
    if store.done_shards() >= {unit.shard for unit in job.units}:  # else other processes are still working on it
        store.compact()
    store.refresh()
    now = time.monotonic()
    return _summary(job, store, results, (workers, now - started, now - units_started))


def require_room(job: Job, width: int) -> None:
    """Check that the disk has room for what is not committed yet, as far as the manifest gives durations.

    Args:
        width: of the LLM's embeddings, 0 without targets.

    Raises:
        StoreError: it has not.
    """
    config = job.config
    committed = committed_shards(config.store)
    units = [unit for unit in ENGINES[config.engine].share(job.units) if unit.shard not in committed]
    known = (each.duration or 0.0 for unit in units for each in job.utterances[unit.start : unit.stop])
    seconds = sum(each for each in known if each <= config.max_seconds)
    frames = int(seconds * job.encoder.frame_rate / config.average)
    itemsize = numpy_dtype(config.dtype).itemsize
    needed = frames * job.encoder.width * (itemsize if config.codec is None else 1)
    if config.targets is not None and config.targets.kind == "dense":
        needed += int(config.targets.geometry.num_vectors(np.asarray([frames]))[0]) * width * itemsize
    require_space(config.store, needed, "what is to be extracted")


def require_continued(there: Identity, identity: Identity, store: Path) -> None:
    """Check that an extraction would continue the store that is there; one of a manifest that grew is told the way.

    Raises:
        IdentityMismatch: with the difference.
    """
    try:
        there.require_same(identity, str(store))
    except IdentityMismatch as mismatch:
        if there.manifest_sha256 == identity.manifest_sha256:
            raise
        raise IdentityMismatch(
            f"{mismatch}; the manifest is another than the store was made of: if it has grown, extract its new lines "
            "as a manifest of their own into a second store, and join the two with `sm-pipeline merge`"
        ) from None


def run_job(job: Job, setup: WorkerSetup, only: Collection[int] | None = None) -> tuple[int, list[UnitResult]]:
    """Run the units whose shard is not committed (and is one of `only`): how many workers, and the results.

    Raises:
        RunFailed: more rejects than `--max-rejects` allows, or a worker died; what was committed stays.
    """
    engine, config = ENGINES[job.config.engine], job.config
    done = Store.open(config.store).done_shards()
    units = engine.share(job.units) if only is None else [unit for unit in job.units if unit.shard in only]
    work = [UnitWork(unit, job.utterances[unit.start : unit.stop]) for unit in units if unit.shard not in done]
    workers = config.workers or engine.workers(job.device, sum(each.unit.seconds for each in work))
    workers = min(workers, max(len(work), 1))
    results: list[UnitResult] = []
    if not work:
        return workers, results
    began = time.monotonic()
    with raise_on_signals(), progress(sum(len(each.unit) for each in work), "extract", "utterances") as shown:
        run = Run(setup, workers, job.encoder if workers == 1 else None, shown.advance)
        with closing(engine.run_units(run, work)) as finished:
            for result in finished:
                results.append(result)
                rejected = sum(sum(each.rejects.values()) for each in results)
                audio_seconds = sum(each.audio_seconds for each in results)
                shown.advance(0, rejected=rejected, x_realtime=audio_seconds / (time.monotonic() - began))
                if config.max_rejects is not None and rejected > config.max_rejects and len(results) < len(work):
                    raise RunFailed(
                        f"{rejected} utterances rejected so far, --max-rejects allows {config.max_rejects}; "
                        f"`sm-pipeline status {config.store}` names them"
                    )
    return workers, results


def prepare(config: ExtractConfig) -> Job:
    """Read the manifest, load the encoder, cut the work units; nothing is written.

    Raises:
        ManifestError, ModelError, ConfigError: bad input.
    """
    engine = ENGINES[config.engine]
    engine.share([])  # refuses an engine that is unavailable here
    device = engine.device(config.device)
    here = device if torch.cuda.is_available() or not device.startswith("cuda") else "cpu"  # with Ray they may differ
    manifest = read_manifest(config.manifest, config.audio_root)
    utterances = manifest.select(config.split)
    precision = choose_dtype(config.compute_dtype, torch.device(device))
    with announced(f"loading encoder {config.encoder}"):
        encoder = load_encoder(config.encoder, config.layer, here, dtype_name(precision))
    itemsize = numpy_dtype(config.dtype).itemsize
    rule = UnitRule(encoder.frame_rate / config.average * encoder.width * itemsize, config.shard_utterances)
    return Job(config, device, manifest, utterances, encoder, rule, plan_units(utterances, rule))


def choose_normalizer(config: ExtractConfig, there: Identity | None) -> str:
    """The text normaliser: that of `--numbers`, else of the store that is there, else the newest."""
    if config.numbers is not None:
        return NUMBERS[config.numbers]
    return there.normalizer if there is not None else NORMALIZER


def make_identity(job: Job, normalizer: str) -> Identity:
    """The identity of the store: everything that decides the bytes of its features."""
    config, rule = job.config, job.rule
    front_end = {
        **job.encoder.front_end(),
        "resampler": RESAMPLER,
        "mix": "mean",
        "max_seconds": config.max_seconds,
    }
    return Identity(
        encoder=job.encoder.identity(),
        average=config.average,
        frame_rate=job.encoder.frame_rate / config.average,
        dtype=config.dtype,
        compression=config.codec,
        layout=config.layout,
        front_end=front_end,
        normalizer=normalizer,
        manifest_sha256=job.manifest.sha256,
        split=config.split,
        plan={"shards": len(job.units), "max_utterances": rule.max_utterances, "max_bytes": rule.max_bytes},
        packages={name: version(name) for name in RECORDED_PACKAGES},
    )


def worker_setup(job: Job, targets: str | None) -> WorkerSetup:
    """The settings that workers need."""
    config = job.config
    return WorkerSetup(
        store=config.store.resolve(),
        audio_root=job.manifest.root.resolve(),
        targets=targets,
        encoder=config.encoder,
        layer=config.layer,
        device=job.device,
        compute_dtype=config.compute_dtype,
        average=config.average,
        dtype=config.dtype,
        max_seconds=config.max_seconds,
        batch_seconds=config.batch_on(job.device),
    )


def _summary(job: Job, store: Store, results: Sequence[UnitResult], figures: tuple[int, float, float]) -> Summary:
    workers, seconds, unit_seconds = figures
    rejects = count(store.rejects())
    audio_seconds = sum(result.audio_seconds for result in results)
    padded_seconds = sum(result.padded_seconds for result in results)
    parts: Counter[str] = Counter()
    for result in results:
        parts.update(result.seconds)
    return Summary(
        store=str(job.config.store),
        utterances=len(job.utterances),
        written=len(store),
        rejected=sum(rejects.values()),
        rejects=rejects,
        shards=len(job.units),
        shards_done=sum(not result.skipped for result in results),
        hours=audio_seconds / 3600,
        seconds=seconds,
        x_realtime=audio_seconds / max(unit_seconds, 1e-9),
        padding=1 - audio_seconds / padded_seconds if padded_seconds else 0.0,
        hours_per_device_hour=audio_seconds / max(unit_seconds * workers, 1e-9),
        halved=sum(result.halved for result in results),
        parts=dict(parts),
        workers=workers,
        device="GPU" if job.device.startswith("cuda") else "core",
    )
