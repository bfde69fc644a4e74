"""Stage 1: teach the projector the embeddings of the text, from a store alone.

    store (features, padded text embeddings)  ->  projector  ->  objective  ->  loop
                                                      |
                              validation: distances, nearest-token WER, lengths, norms

No LLM is imported or read: the targets, the embedding table and the tokenizer are in the store. Several variants can
be trained from one read of the store (`sm-train sweep`): the same loop, with as many runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from sm_store import Geometry
from sm_store.errors import ConfigError
from speechmapper.config import Stage1Config
from speechmapper.loader.data import DataRequest, TrainingData, open_data
from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.objectives import Objective
from speechmapper.objectives.build import build_objective, readout_of
from speechmapper.projector import Projector, ProjectorConfig
from speechmapper.saved_projector import save_projector, trained_for
from speechmapper.train.learner import Learner
from speechmapper.train.loop import Loop
from speechmapper.train.run import Outcome, Setup, Trainee
from speechmapper.train.run_folder import open_accelerator, run_identity, start_run, tell
from speechmapper.train.stage import Evaluation
from speechmapper.train.validation import VectorValidation, vector_validation


@dataclass(frozen=True, slots=True)
class Stage1Request:
    """What `sm-train stage1` was asked for."""

    store: Path
    out: Path
    config: Stage1Config
    target: str | None = None
    split: str | None = None
    resume: bool = False

    @property
    def data(self) -> DataRequest:
        """What to read."""
        return DataRequest(self.store, self.target, self.split)


def train_stage1(request: Stage1Request) -> Outcome:
    """Run stage 1; writes the run folder, `projector/` last.

    Raises:
        StoreError: a store that cannot be used. ConfigError: settings that do not fit it.
        IdentityMismatch: --resume of a run made for something else.
        RunFailed: non-finite gradients step after step.
    """
    return train_variants(request, {request.out: request.config})[0]


def train_variants(request: Stage1Request, variants: Mapping[Path, Stage1Config]) -> list[Outcome]:
    """Train one run a variant, by its folder, all from one read of the store; each is what it would be alone.

    The variants differ from `request.config` in what the reading does not depend on.

    Raises:
        ConfigError: several variants with a tracker that knows one run a process. Else as `train_stage1`.
    """
    config = request.config
    global_ones = [name for name in config.run.trackers if name != "tensorboard"]
    if len(variants) > 1 and global_ones:
        raise ConfigError(
            f"run.trackers {', '.join(global_ones)}: one run a process, and this process trains {len(variants)}; "
            "give --set run.trackers=[tensorboard]"
        )
    data = open_data(request.data, geometry_of(config), config.data, config.seed)
    accelerators = {out: open_accelerator(variant.run, out) for out, variant in variants.items()}
    first = next(iter(accelerators.values()))
    for out, variant in variants.items():
        start_run(out, "stage1", variant, request.resume, first)
    trainees = [build_trainee(out, variant, data, accelerators[out]) for out, variant in variants.items()]
    each = f" in each of {len(trainees)} runs" if len(trainees) > 1 else ""
    tell(
        first,
        f"stage 1: {len(data.order.indices)} utterances of {data.split or 'the store'}, left out: {data.left_out}; "
        f"{trainees[0].projector.num_parameters():,} parameters learn{each}; no LLM",
    )
    outcomes = Loop("stage 1", data.source, data.order, config.data, config.schedule, first).run(
        trainees, request.resume
    )
    if first.is_main_process:
        for out, trainee in zip(variants, trainees, strict=True):
            save_projector(out, trainee.projector)
    return outcomes


def build_trainee(out: Path, config: Stage1Config, data: TrainingData, accelerator: Accelerator) -> Trainee:
    """A run that has not begun: fresh weights drawn from its seed."""
    sizes = projector_config(config, data)
    torch.manual_seed(config.seed)
    projector = Projector(sizes)
    objective = build_objective(config.objective, data.targets, sizes, accelerator.device)
    identity = run_identity(config, projector, data)
    validation = vector_validation(out, data, config.run)
    setup = Setup(out, config, identity, data.order, data.store.identity.frame_rate)
    return Trainee(setup, Stage1Task(objective, validation), Learner(projector, objective), accelerator)


def geometry_of(config: Stage1Config) -> Geometry:
    """How many vectors the projector gives for how many frames. Raises ConfigError."""
    return Geometry(config.model.kernel_sizes, config.model.strides, config.model.paddings)


def projector_config(config: Stage1Config, data: TrainingData) -> ProjectorConfig:
    """The projector's sizes for this store and target set.

    Raises:
        ConfigError: sizes that do not fit each other.
    """
    model, spec = config.model, data.spec
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
            output_scale=math.sqrt(spec.table_scale) if model.scale_to_table else 1.0,
            readout=readout_of(config.objective.name),
            trained_for=trained_for("stage1", data.store.identity, spec),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


class Stage1Task:
    """`Task` of stage 1: the objective on the projector's vectors."""

    def __init__(self, objective: Objective, validation: VectorValidation | None) -> None:
        self._objective = objective
        self._validation = validation

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        return self._objective.counts(batch)

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        sums: Mapping[str, torch.Tensor] = model(batch).sums
        return sums

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._objective.combine(sums, counts)

    def evaluate(self, model: Any, step: int) -> Evaluation:
        return self._validation.run(model, step) if self._validation else Evaluation()
