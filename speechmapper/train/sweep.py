"""Several variants of a stage that share what they read, and a table that compares them.

    sm-train sweep stage1 --vary optimizer.lr=1e-3,1e-4 --vary seed=1,2 --store S --out OUT
    OUT/lr-0.001_seed-1/ OUT/lr-0.0001_seed-1/ ...    run folders, each as `sm-train stage1` would make it
    OUT/sweep.json                                    the last figures of each: a list, one object per run

Runs whose batches are the same (equal data settings, seed, steps and geometry) form a group, here one per seed. A group
is trained in one loop: every batch is read and copied to the device once, and its projectors take their steps on it one
after the other; where reading limits the speed, three alphas cost little more than one. The groups follow each other.

Everything is checked before the first step of the first group. `--resume` continues where the sweep was: a group that
is finished is not trained again. What a stage does with a group is its `SweepStage`: stage 1's is here, stage 2's in
`sweep_stage2.py`. Stage 1 with `--llm` lets that LLM read the validation utterances of every run at the end.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from accelerate import Accelerator

from sm_pipeline.console import progress
from sm_store.durable import write_file
from sm_store.errors import ConfigError, RunFailed
from speechmapper.config import Stage1Config, Stage2Config
from speechmapper.loader.data import DataRequest, StorePaths, TrainingData, paths_of
from speechmapper.saved_projector import PROJECTOR_FOLDER
from speechmapper.train.checkpoint import newest_progress
from speechmapper.train.log import last_figures, rounded
from speechmapper.train.loop import require_shares
from speechmapper.train.run import DONE, STOPPED, Outcome
from speechmapper.train.run_folder import open_accelerator, print_message, start_run
from speechmapper.train.run_lock import locked_run
from speechmapper.train.stage1 import batches_of, check_run, open_stage1_data, train_runs
from speechmapper.train.vary import ALPHA, Variant, named_in_errors

SWEEP_FILE = "sweep.json"
LLM_WER = "dev_llm_wer"
UNFINISHED = "not trained to its end; continue with --resume"


Config = Stage1Config | Stage2Config


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """The arguments of `sm-train sweep`: `out` will hold the run folders; `llm` is a model argument or None; `store` is
    one path, or several that are read as one store."""

    store: StorePaths
    out: Path
    variants: Sequence[Variant]
    target: str | None = None
    split: str | None = None
    resume: bool = False
    llm: str | None = None

    @property
    def data(self) -> DataRequest:
        """The part of the request that says what to read."""
        return DataRequest(self.store, self.target, self.split)

    def folder(self, variant: Variant) -> Path:
        """The variant's run folder."""
        return self.out / variant.name


@dataclass(frozen=True, slots=True)
class Checked:
    """A variant that can be trained.

    Attributes:
        config: as it is trained.
        identity: gives the run's identity (JSON values); called once all variants are checked, so it may take long.
    """

    config: Config
    identity: Callable[[Accelerator], dict[str, Any]]


class SweepStage(Protocol):
    """What a sweep has to know of a stage."""

    name: str

    def batches_of(self, config: Any) -> Hashable:
        """What decides a run's batches besides the store. Raises ConfigError."""

    def read(self, config: Any) -> TrainingData:
        """What a run with this configuration reads."""

    def check(self, variant: Variant, data: TrainingData) -> Checked:
        """Check all that can be checked without training or writing. Raises ConfigError."""

    def train(self, name: str, group: Sequence[Variant]) -> tuple[list[Outcome], bool]:
        """Train the runs of a group in their folders, which are started and locked; returns how each ended, and
        whether a signal asked to stop."""


class Stage1Sweep:
    """`SweepStage` of stage 1."""

    name = "stage 1"

    def __init__(self, request: SweepRequest) -> None:
        self._request, self._llm_checked = request, request.llm is None

    def batches_of(self, config: Any) -> Hashable:
        return batches_of(config)

    def read(self, config: Any) -> TrainingData:
        return open_stage1_data(self._request.data, config)

    def check(self, variant: Variant, data: TrainingData) -> Checked:
        request, config = self._request, cast(Stage1Config, variant.config)
        made = check_run(request.folder(variant), config, data)
        if request.llm is not None and (not config.run.eval_utterances or not len(data.dev)):
            raise ConfigError(
                f"--llm {request.llm}: nothing to read: it reads run.eval_utterances ({config.run.eval_utterances}) of "
                f"the dev split, which has {len(data.dev)}; set run.eval_utterances, or leave --llm out"
            )

        def identity(_: Accelerator) -> dict[str, Any]:
            if not self._llm_checked:
                from speechmapper.train.llm_read import require_llm

                require_llm(str(request.llm), data.targets)
                self._llm_checked = True
            return made

        return Checked(config, identity)

    def train(self, name: str, group: Sequence[Variant]) -> tuple[list[Outcome], bool]:
        configs = {self._request.folder(variant): cast(Stage1Config, variant.config) for variant in group}
        return train_runs(name, self.read(group[0].config), configs, self._request.resume, in_sweep=True)


def sweep_stage1(request: SweepRequest) -> list[dict[str, Any]]:
    """Train one run per variant; returns the rows of the table, in the order of the variants.

    Raises:
        ConfigError: a variant that cannot be trained, or several in one group with a tracker that supports only one
            run per process. ModelError: an LLM that is not the target set's. Else as `train_stage1`.
    """
    stage = Stage1Sweep(request)
    accelerator = open_for(request, stage)
    rows, stopped = sweep(request, stage, accelerator)
    if request.llm is not None and not stopped and accelerator.is_main_process:
        add_llm_figures(request, groups_of(request.variants, stage), rows, accelerator)
    return rows


def open_for(request: SweepRequest, stage: SweepStage) -> Accelerator:
    """Accelerate for what the runs of a sweep share. Raises ConfigError: trackers that do not fit, a bad geometry."""
    require_trackers_fit(groups_of(request.variants, stage))
    first = request.variants[0]
    return open_accelerator(first.config.run, request.folder(first))


def sweep(request: SweepRequest, stage: SweepStage, accelerator: Accelerator) -> tuple[list[dict[str, Any]], bool]:
    """Train one run per variant; returns the rows of the table, and whether a signal asked to stop."""
    groups = groups_of(request.variants, stage)
    checked = check_groups(request, stage, groups, accelerator)
    identities = {name: each.identity(accelerator) for name, each in checked.items()}
    with ExitStack() as locks:
        for variant in request.variants:
            locks.enter_context(locked_run(request.folder(variant), accelerator))
            start_run(request.folder(variant), checked[variant.name].config, request.resume, accelerator)
        outcomes = {
            variant.name: outcome_so_far(request.folder(variant), variant, identities[variant.name])
            for variant in request.variants
        }
        stopped = False
        for number, group in enumerate(groups, 1):
            if not stopped:
                name = stage.name
                if len(groups) > 1:
                    name += f", group {number} of {len(groups)} ({in_common(group)})"
                stopped = train_group(stage, name, group, outcomes, accelerator)
                # Kept if something later fails; --resume then has only that left to do.
                rows = write_rows(request, outcomes, identities, accelerator)
    accelerator.state.destroy_process_group()
    return rows, stopped


def groups_of(variants: Sequence[Variant], stage: SweepStage) -> list[list[Variant]]:
    """The variants by what they read, groups and variants in the order given. Raises ConfigError: a bad geometry."""
    groups: dict[Hashable, list[Variant]] = {}
    for variant in variants:
        with named_in_errors(variant.flags):
            groups.setdefault(stage.batches_of(variant.config), []).append(variant)
    return list(groups.values())


def require_trackers_fit(groups: Sequence[Sequence[Variant]]) -> None:
    """Raises ConfigError where runs that are trained together have a tracker that supports one run per process."""
    for group in groups:
        trackers = {name: None for variant in group for name in variant.config.run.trackers if name != "tensorboard"}
        if len(group) > 1 and trackers:
            raise ConfigError(
                f"run.trackers {', '.join(trackers)}: one run per process, and this process trains {len(group)} "
                "together; give --set run.trackers=[tensorboard]"
            )


def check_groups(
    request: SweepRequest, stage: SweepStage, groups: Sequence[Sequence[Variant]], accelerator: Accelerator
) -> dict[str, Checked]:
    """Check every variant as far as that is possible without training; returns them by name.

    Raises:
        ConfigError: names the variant, unless it is about what all variants share.
    """
    checked = {}
    shared = ("--", *map(str, paths_of(request.store)))  # how errors begin that are about no variant
    for group in groups:
        with named_in_errors(group[0].flags, shared):
            require_shares(group[0].config.data, accelerator)
            data = stage.read(group[0].config)
        for variant in group:
            with named_in_errors(variant.flags, shared):
                checked[variant.name] = stage.check(variant, data)
    return checked


def outcome_so_far(out: Path, variant: Variant, identity: Mapping[str, Any]) -> Outcome:
    """How far a run is, by its newest checkpoint.

    Raises:
        IdentityMismatch: the checkpoint is of a run with other settings or of another store.
    """
    step, counters = newest_progress(out, identity) or (0, {})
    reason = counters.get("enough") or (DONE if counters and step >= variant.config.schedule.steps else None)
    finished = reason is not None and has_result(out, step)
    ended = reason if finished and reason else UNFINISHED
    return Outcome(
        step, finished, ended, counters.get("skipped", 0), last_figures(out, step), counters.get("seconds", 0.0)
    )


def has_result(out: Path, step: int) -> bool:
    """Whether the projector of a run that ended after `step` steps was saved."""
    try:
        training = json.loads((out / PROJECTOR_FOLDER / "config.json").read_bytes())["trained_for"]["training"]
        return bool(training["finished"]) and training["steps"] == step
    except (OSError, ValueError, KeyError, TypeError):
        return False


def train_group(
    stage: SweepStage,
    name: str,
    group: Sequence[Variant],
    outcomes: dict[str, Outcome],
    accelerator: Accelerator,
) -> bool:
    """Train the runs of a group, if any is not finished, and set their `outcomes`; returns whether a signal came."""
    if all(outcomes[variant.name].finished for variant in group):
        runs = "its run was" if len(group) == 1 else f"its {len(group)} runs were"
        print_message(accelerator, f"{name}: {runs} finished before; not trained again")
        return False
    trained, stop_requested = stage.train(name, group)
    outcomes.update(zip((variant.name for variant in group), trained, strict=True))
    return stop_requested


def in_common(group: Sequence[Variant]) -> str:
    """The varied settings that are the same in all runs of a group: `seed=2`."""
    first = group[0].settings
    shared = [key for key in first if all(variant.settings[key] == first[key] for variant in group)]
    return " ".join(f"{key}={json.dumps(first[key])}" for key in shared)


def row(variant: Variant, outcome: Outcome, identity: Mapping[str, Any]) -> dict[str, Any]:
    """One object of sweep.json; figures are written as in the log, and `alpha` is there where it is varied."""
    alpha = {"alpha": variant.settings[ALPHA]} if ALPHA in variant.settings else {}
    return {
        "run": variant.name,
        **alpha,
        "settings": dict(variant.settings),
        **dataclasses.asdict(outcome),
        "figures": {name: rounded(value) for name, value in outcome.figures.items()},
        "seconds": round(outcome.seconds, 3),
        "parameters": identity["model"]["parameters"],
    }


def require_success(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises RunFailed where a run ended otherwise than by its last step, a stop reason or a signal."""
    failed = [str(row["run"]) for row in rows if not row["finished"] and row["ended"] not in (STOPPED, UNFINISHED)]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(rows)} runs failed, see `ended` in {SWEEP_FILE}: {', '.join(failed)}")


def write_rows(
    request: SweepRequest,
    outcomes: Mapping[str, Outcome],
    identities: Mapping[str, Mapping[str, Any]],
    accelerator: Accelerator,
) -> list[dict[str, Any]]:
    """Write sweep.json as far as the runs are; returns its rows."""
    rows = [row(variant, outcomes[variant.name], identities[variant.name]) for variant in request.variants]
    if accelerator.is_main_process:
        _write(request.out, rows)
    return rows


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_file(out / SWEEP_FILE, json.dumps(list(rows), indent=1).encode() + b"\n")


def add_llm_figures(
    request: SweepRequest,
    groups: Sequence[Sequence[Variant]],
    rows: Sequence[dict[str, Any]],
    accelerator: Accelerator,
) -> None:
    """Let the LLM read the validation utterances of every run that did not fail; into the rows and sweep.json."""
    from speechmapper.train.llm_read import load_reader

    by_name = {row["run"]: row for row in rows}
    reader = None
    with progress(len(rows), f"reading with {request.llm}", "runs") as bar:
        for group in groups:
            data = open_stage1_data(request.data, cast(Stage1Config, group[0].config))
            reader = reader or load_reader(str(request.llm), data.targets, accelerator)
            for variant in group:
                if by_name[variant.name]["finished"]:
                    wer = reader.wer(request.folder(variant), variant.config.run, data)
                    by_name[variant.name]["figures"][LLM_WER] = None if wer is None else rounded(wer)
                bar.advance(1)
    _write(request.out, rows)
