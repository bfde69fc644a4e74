"""Stage 1: teach the projector the embeddings of the text, from a store alone.

    store (features, padded text embeddings)  ->  projector  ->  objective  ->  loop
                                                      |
                              validation: distances, nearest-token WER, lengths, norms

No LLM is imported or read: the targets, the embedding table and the tokenizer are in the store. Only the objective part
`kd`, off by default, reads an LLM's first layers (`speechmapper/first_layers.py`). Several variants can be trained from
one read of the store (`sm-train sweep`): the same loop with several runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from sm_store import Geometry
from sm_store.errors import ConfigError
from speechmapper.config import Stage1Config
from speechmapper.loader.data import DataRequest, TrainingData, open_data
from speechmapper.loader.token_ids import token_counts
from speechmapper.objectives.build import build_objective, readout_of
from speechmapper.projector import OWN_HEAD, Projector, ProjectorConfig
from speechmapper.saved_projector import trained_for
from speechmapper.train.alignable import alignment_report
from speechmapper.train.loop import Loop
from speechmapper.train.run import Outcome, Run, Setup
from speechmapper.train.run_folder import open_accelerator, print_message, run_identity, start_run
from speechmapper.train.run_lock import locked_run
from speechmapper.train.stage import ObjectiveStage, ProjectorWithObjective
from speechmapper.train.validation import vector_validation


@dataclass(frozen=True, slots=True)
class Stage1Request:
    """The arguments of `sm-train stage1`."""

    store: Path
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
    return train_variants(request, {request.out: request.config})[0]


def train_variants(request: Stage1Request, variants: Mapping[Path, Stage1Config]) -> list[Outcome]:
    """Train one run per variant, all from one read of the store; each is bit for bit what it would be alone.

    Args:
        variants: configuration by run folder; they differ from `request.config` only in settings that reading does
            not depend on.

    Raises:
        ConfigError: several variants with a tracker that supports only one run per process. Else as `train_stage1`.
    """
    with ExitStack() as locks:
        return _train_variants(request, variants, locks)


def _train_variants(request: Stage1Request, variants: Mapping[Path, Stage1Config], locks: ExitStack) -> list[Outcome]:
    """As `train_variants`; the locks of the run folders are held until `locks` is closed."""
    config = request.config
    single_run_trackers = [name for name in config.run.trackers if name != "tensorboard"]
    if len(variants) > 1 and single_run_trackers:
        raise ConfigError(
            f"run.trackers {', '.join(single_run_trackers)}: one run per process, and this process trains "
            f"{len(variants)}; give --set run.trackers=[tensorboard]"
        )
    data = open_data(request.data, geometry_of(config), config.data, config.seed)
    accelerators = {out: open_accelerator(variant.run, out) for out, variant in variants.items()}
    first = next(iter(accelerators.values()))
    for out, variant in variants.items():
        locks.enter_context(locked_run(out, first))
        start_run(out, variant, request.resume, first)
    runs = [build_run(out, variant, data, accelerators[out]) for out, variant in variants.items()]
    distilled = any("kd" in variant.objective.name.split("+") for variant in variants.values())
    llm = "of an LLM its first layers alone (objective kd)" if distilled else "no LLM"
    each = f" in each of {len(runs)} runs" if len(runs) > 1 else ""
    print_message(
        first,
        f"stage 1: {len(data.order.indices)} utterances of {data.split or 'the store'}, left out: {data.left_out}; "
        f"{runs[0].projector.num_parameters():,} parameters learn{each}; {llm}",
    )
    loop = Loop("stage 1", data.source, data.order, config.data, config.schedule, first)
    outcomes = loop.run(runs, request.resume)
    if first.is_main_process:
        for run in runs:
            run.save_result()
    return outcomes


def build_run(out: Path, config: Stage1Config, data: TrainingData, accelerator: Accelerator) -> Run:
    """A run at step 0: weights drawn from its seed."""
    sizes = projector_config(config, data)
    torch.manual_seed(config.seed)
    projector = Projector(sizes)
    counts = partial(token_counts, data)
    objective = build_objective(config.objective, data.targets, sizes, accelerator.device, counts)
    alignable = alignment_report(objective, data, accelerator.device)
    if alignable:
        print_message(accelerator, f"{out.name}: {alignable}")
    identity = run_identity(config, projector, data)
    validation = vector_validation(out, data, config.run)
    setup = Setup(out, config, identity, data.order, data.store.identity.frame_rate)
    stage = ObjectiveStage(objective, validation.run if validation else None)
    return Run(setup, stage, ProjectorWithObjective(projector, objective), accelerator)


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
            rows_temperature=model.rows_temperature or config.objective.ctc_temperature,
            learn_temperature=model.learn_temperature,
            rows_top_k=model.rows_top_k,
            blanks=model.blanks,
            trained_for=trained_for("stage1", data.store.identity, spec),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
