"""Stage 1: teach the projector the embeddings of the text, from a store alone.

    store (features, padded text embeddings)  ->  projector  ->  objective  ->  loop
                                                      |
                              validation: relative MSE, cosine, nearest-token WER

No LLM is imported or read: the targets, the embedding table and the tokenizer are in the store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sm_store import Store, TargetSpec
from sm_store.errors import ConfigError
from speechmapper.config import ObjectiveConfig, RunConfig, Stage1Config
from speechmapper.eval.metrics import error_rates
from speechmapper.loader.batches import DeviceBatch, read_batch
from speechmapper.objectives import Objective, WeightedMSE
from speechmapper.projector import Projector, ProjectorConfig
from speechmapper.train.data import TrainingData, open_data
from speechmapper.train.loop import Loop, Outcome, Setup
from speechmapper.train.readout import Closeness, NearestToken
from speechmapper.train.report import EXAMPLES_FILE
from speechmapper.train.run_folder import (
    open_accelerator,
    run_identity,
    save_projector,
    start_run,
    tell,
    trained_for,
)
from speechmapper.train.task import count_positions
from speechmapper.train.tokenizer import load_tokenizer

EVAL_BATCH = 32  # utterances


@dataclass(frozen=True, slots=True)
class Stage1Request:
    """What `sm-train stage1` was asked for."""

    store: Path
    out: Path
    config: Stage1Config
    target: str | None = None
    split: str | None = None
    resume: bool = False


def train_stage1(request: Stage1Request) -> Outcome:
    """Run stage 1; writes the run folder, `projector/` last.

    Raises:
        StoreError: a store that cannot be used. ConfigError: settings that do not fit it.
        IdentityMismatch: --resume of a run made for something else.
        RunFailed: non-finite gradients step after step.
    """
    config = request.config
    data = open_data(request.store, request.target, request.split, config.data, config.seed)
    torch.manual_seed(config.seed)
    projector = Projector(projector_config(config, data))
    objective = build_objective(config.objective, data.spec)
    identity = run_identity(config, projector, data.store.identity, data.spec, data.split)
    start_run(request.out, "stage1", config, request.resume)
    accelerator = open_accelerator(config.run, request.out)
    tell(
        accelerator,
        f"stage 1: {len(data.order.indices)} utterances of {data.split or 'the store'}, left out: "
        f"{data.left_out}; {projector.num_parameters():,} parameters learn; no LLM",
    )
    validation = build_validation(request.out, data, config.run, accelerator.device)
    setup = Setup(
        "stage 1",
        request.out,
        config,
        data.store,
        data.spec.name,
        data.order,
        identity,
        data.store.identity.frame_rate,
    )
    outcome = Loop(setup, Stage1Task(objective, validation), projector, accelerator).run(request.resume)
    if accelerator.is_main_process:
        save_projector(request.out, projector)
    return outcome


def projector_config(config: Stage1Config, data: TrainingData) -> ProjectorConfig:
    """The projector's sizes for this store and target set.

    Raises:
        ConfigError: sizes that do not fit each other, or a geometry other than the target set's.
    """
    model, spec = config.model, data.spec
    try:
        sizes = ProjectorConfig(
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
            trained_for=trained_for("stage1", data.store.identity, spec),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if sizes.geometry != spec.geometry:
        raise ConfigError(
            f"model.kernel_sizes, strides, paddings {sizes.geometry.to_json()} differ from those target "
            f"set {spec.name} was padded for, {spec.geometry.to_json()}; use the same or embed again"
        )
    return sizes


def build_objective(config: ObjectiveConfig, spec: TargetSpec) -> Objective:
    """The loss by name.

    Raises:
        ConfigError: an unknown name or an impossible weight.
    """
    if config.name != "mse":
        raise ConfigError(f"objective.name {config.name!r}: use mse")
    # The spec's scale is per dimension, the objective's that of a whole row.
    return WeightedMSE(config.alpha, config.cosine_weight, config.reduction, spec.table_scale * spec.width)


class Stage1Task:
    """`Task` of stage 1: the objective on the projector's vectors."""

    def __init__(self, objective: Objective, validation: Validation | None) -> None:
        self._objective = objective
        self._validation = validation

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        return count_positions(self._objective, batch)

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        vectors_BUE, vectors_B = model(batch.features_BTD, batch.frames_B)
        return self._objective(vectors_BUE, vectors_B, batch.targets_BUE, batch.tokens_B).sums

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._objective.combine(sums, counts)

    def evaluate(self, model: Any, step: int) -> dict[str, float]:
        return self._validation.run(model, step) if self._validation else {}


@dataclass(frozen=True, slots=True)
class Validation:
    """Distances and nearest-token error rates on part of the validation split.

    Attributes:
        indices: store indices, sorted by length.
        references: their transcripts.
        examples: how many readouts are appended to RUN/examples.txt.
    """

    store: Store
    spec: TargetSpec
    readout: NearestToken
    indices: np.ndarray
    references: Sequence[str]
    out: Path
    examples: int
    device: torch.device

    def run(self, model: Projector, step: int) -> dict[str, float]:
        """Figures of the model as it is now; see `Closeness.figures`, plus `wer` and `cer`."""
        closeness, outputs = Closeness(self.spec.table_scale), []
        for start in range(0, len(self.indices), EVAL_BATCH):
            batch = read_batch(self.store, self.spec.name, self.indices[start : start + EVAL_BATCH], self.device)
            vectors_BUE, vectors_B = model(batch.features_BTD, batch.frames_B)
            closeness.add(vectors_BUE, batch)
            outputs += self.readout.texts(self.readout.token_ids(vectors_BUE, vectors_B))
        write_examples(self.out, step, self.references, outputs, self.examples)
        rates = error_rates(self.references, outputs)
        return {
            **closeness.figures(),
            **{name: rates[name] for name in ("wer", "cer") if rates[name] is not None},
        }


def build_validation(out: Path, data: TrainingData, run: RunConfig, device: torch.device) -> Validation | None:
    """Validation on utterances spread evenly over the split, or None where there are none."""
    indices = spread(data.dev, run.eval_utterances)
    if len(indices) == 0:
        return None
    indices = indices[np.argsort(data.store.frames[indices], kind="stable")]
    targets = data.store.targets(data.spec.name)
    readout = NearestToken(targets.table, load_tokenizer(targets.tokenizer_dir), data.spec.pad_id, device)
    references = data.store.columns(["text"])["text"].take(indices).to_pylist()
    # Its own handle: the training one is being read by another thread.
    store = Store.open(data.store.path)
    return Validation(store, data.spec, readout, indices, references, out, run.examples, device)


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """`count` of the indices, evenly spaced; all where there are fewer."""
    if count >= len(indices):
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype(np.int64)] if count else indices[:0]


def write_examples(out: Path, step: int, references: Sequence[str], outputs: Sequence[str], count: int) -> None:
    """Append some readouts with their references to RUN/examples.txt."""
    chosen = spread(np.arange(len(outputs)), count).tolist()
    if chosen:
        lines = [f"step {step}", *(f"  said  {references[row]}\n  read  {outputs[row]}" for row in chosen)]
        with (out / EXAMPLES_FILE).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
