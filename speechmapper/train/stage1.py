"""Stage 1: teach the projector the embeddings of the text, from a store alone.

    store (features, padded text embeddings)  ->  projector  ->  objective  ->  loop
                                                      |
                              validation: distances, nearest-token WER, lengths, norms

No LLM is imported or read: the targets, the embedding table and the tokenizer are in the store. Only the objective part
`kd`, off by default, reads an LLM's first layers (`speechmapper/first_layers.py`). Several runs with the same batches
can be trained from one read of the store (`train_runs`), in the same loop; `train/sweep.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from sm_pipeline.devices import choose_device, mixed_precision
from sm_store import Geometry
from sm_store.errors import ConfigError
from speechmapper.config import Stage1Config
from speechmapper.loader.data import DataRequest, StorePaths, TrainingData, open_data
from speechmapper.loader.stores import recorded_stores
from speechmapper.loader.token_ids import token_counts
from speechmapper.objectives import Objective
from speechmapper.objectives.build import build_objective, readout_of
from speechmapper.projector import OWN_HEAD, Projector, ProjectorConfig
from speechmapper.saved_projector import trained_for
from speechmapper.train.alignable import alignment_report
from speechmapper.train.loop import train_together
from speechmapper.train.run import Outcome, Run, Setup, require_compiler
from speechmapper.train.run_folder import (
    open_accelerator,
    print_message,
    require_trackers,
    run_identity,
    start_run,
)
from speechmapper.train.run_lock import locked_run
from speechmapper.train.stage import ObjectiveStage, ProjectorWithObjective
from speechmapper.train.validation import vector_validation


@dataclass(frozen=True, slots=True)
class Stage1Request:
    """The arguments of `sm-train stage1`; `store` is one path, or several that are read as one store."""

    store: StorePaths
    out: Path
    config: Stage1Config
    target: str | None = None
    split: str | None = None
    resume: bool = False

    @property
    def data(self) -> DataRequest:
        """The part of the request that says what to read."""
        return DataRequest(self.store, self.target, self.split)


def train_stage1(request: Stage1Request) -> Outcome:
    """Run stage 1; writes the run folder, `projector/` last.

    Raises:
        StoreError: a store that cannot be used. ConfigError: settings that do not fit it.
        IdentityMismatch: --resume with another store, model, data order or objective.
        RunFailed: non-finite gradients step after step.
    """
    out, config = request.out, request.config
    data = open_stage1_data(request.data, config)
    accelerator = open_accelerator(config.run, out)
    with ExitStack() as locks:
        locks.enter_context(locked_run(out, accelerator))
        start_run(out, config, request.resume, accelerator)
        (outcome,), _ = train_runs("stage 1", data, {out: config}, request.resume)
        return outcome


def open_stage1_data(request: DataRequest, config: Stage1Config) -> TrainingData:
    """What a run with this configuration reads; raises as `open_data`."""
    return open_data(request, geometry_of(config), config.data, config.seed)


def train_runs(
    name: str, data: TrainingData, configs: Mapping[Path, Stage1Config], resume: bool, in_sweep: bool = False
) -> tuple[list[Outcome], bool]:
    """Train a run per folder, all from one read of the data; each is bit for bit what it would be alone.

    Returns how each run ended, and whether a signal asked to stop.

    Args:
        name: for messages.
        configs: by run folder, started and locked; all have the same `batches_of`.
        in_sweep: other runs go on when one fails, and the group of processes is kept for the runs after these.
    """
    accelerators = {out: open_accelerator(config.run, out) for out, config in configs.items()}
    first, config = next(iter(accelerators.values())), next(iter(configs.values()))
    runs = [build_run(out, each, data, accelerators[out]) for out, each in configs.items()]
    sizes = sorted({run.projector.num_parameters() for run in runs})
    distilled = any("kd" in config.objective.name.split("+") for config in configs.values())
    llm = "of an LLM its first layers alone (objective kd)" if distilled else "no LLM"
    each = f" in each of {len(runs)} runs" if len(runs) > 1 else ""
    print_message(
        first,
        f"{name}: {len(data.order.indices)} utterances of {data.split or 'the store'}, left out: {data.left_out}; "
        f"{' to '.join(f'{size:,}' for size in (sizes[0], sizes[-1])[: len(sizes)])} parameters learn{each}; {llm}",
    )
    return train_together(name, data, config, runs, first, resume, in_sweep)


def batches_of(config: Stage1Config) -> Hashable:
    """What decides a run's batches besides the store; runs in which it is equal can share each read.

    Raises:
        ConfigError: kernels, strides and paddings that do not fit together.
    """
    return config.data, config.seed, config.schedule.steps, geometry_of(config)


def build_run(out: Path, config: Stage1Config, data: TrainingData, accelerator: Accelerator) -> Run:
    """A run at step 0: weights drawn from its seed."""
    sizes = projector_config(config, data)
    torch.manual_seed(config.seed)
    projector = Projector(sizes)
    objective, alignable = objective_for(config, data, sizes, accelerator.device)
    if alignable:
        print_message(accelerator, f"{out.name}: {alignable}")
    identity = run_identity(config, projector, data)
    validation = vector_validation(out, data, config.run)
    setup = Setup(out, config, identity, data.order, data.store.identity.frame_rate)
    stage = ObjectiveStage(objective, validation.run if validation else None)
    return Run(setup, stage, ProjectorWithObjective(projector, objective), accelerator)


def check_run(out: Path, config: Stage1Config, data: TrainingData) -> dict[str, Any]:
    """Check all that `build_run` would refuse, without weights and without writing; returns the run's identity.

    Raises:
        ConfigError: settings that do not fit the store, each other or this machine.
    """
    require_trackers(config.run)
    mixed_precision(config.run.precision, choose_device(config.run.device))
    if config.run.compile:
        require_compiler()
    sizes = projector_config(config, data)
    objective_for(config, data, sizes, torch.device("cpu"))
    vector_validation(out, data, config.run)
    with torch.device("meta"):
        projector = Projector(sizes)
    return run_identity(config, projector, data)


def objective_for(
    config: Stage1Config, data: TrainingData, sizes: ProjectorConfig, device: torch.device
) -> tuple[Objective, str]:
    """The objective on `device`, and how many texts it cannot align, as text.

    Raises:
        ConfigError: as `build_objective` and `alignment_report`.
    """
    objective = build_objective(config.objective, data.targets, sizes, device, partial(token_counts, data))
    return objective, alignment_report(objective, data, device)


def geometry_of(config: Stage1Config) -> Geometry:
    """Frames to vectors, of the projector that is configured. Raises ConfigError."""
    return Geometry(config.model.kernel_sizes, config.model.strides, config.model.paddings)


def projector_config(config: Stage1Config, data: TrainingData) -> ProjectorConfig:
    """The projector's sizes for this store and target set.

    Raises:
        ConfigError: sizes that do not fit together.
    """
    model, spec, readout = config.model, data.spec, readout_of(config.objective.name)
    if model.learn_temperature and readout != "ctc":
        raise ConfigError("model.learn_temperature: only ctc-embedding trains it; name it in objective.name")
    try:
        return ProjectorConfig(
            input_size=data.store.identity.width,
            output_size=spec.width,
            block_sizes=model.block_sizes,
            block_outputs=model.block_outputs,
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            ffn_size=model.ffn_size,
            kernel_sizes=model.kernel_sizes,
            strides=model.strides,
            paddings=model.paddings,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            norm_order=model.norm_order,
            norm_before_linear=model.norm_before_linear,
            dropout_after_positions=model.dropout_after_positions,
            output_scale=math.sqrt(spec.table_scale) if model.scale_to_table else 1.0,
            readout=readout,
            head=model.head or OWN_HEAD[readout],
            ctc_temperature=config.objective.ctc_temperature,
            rows_temperature=model.rows_temperature or config.objective.ctc_temperature / 2,
            learn_temperature=model.learn_temperature,
            rows_top_k=model.rows_top_k,
            blanks=model.blanks,
            trained_for=trained_for("stage1", data.store.identity, spec, **recorded_stores(data.store)),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
