"""What a stage gives the loop: how a batch becomes sums, sums become a loss, and a model becomes figures.

    counts = stage.counts(batch)         {"word": 37, "pad": 21}       known before the model runs
    sums   = stage.sums(model, batch)    {"word": 41.2, "pad": 3.0}    differentiable, over those positions
    loss   = stage.combine(sums, counts of the whole step)

Because counts are known first, every micro-batch is divided by the counts of the *step* (all micro-batches of
all processes) and goes through backward at once: the mean over valid positions of the step, in the memory of
one micro-batch, however the step is cut.

The model is a projector and its objective as one module, since gradient averaging over processes needs one forward of
one module; stage 2 may add an LLM's adapters, which `sums` uses. The objective's own parameters (a CTC layer) are in
the run's checkpoints alone; the projector outlives it, and so does what `save` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.objectives import Objective
from speechmapper.projector import Projected, Projector


@dataclass(frozen=True, slots=True)
class ProjectorOutput:
    """The model's output for one batch.

    Attributes:
        projected: the projector's output.
        sums: the objective's sums by name; empty without an objective.
    """

    projected: Projected
    sums: Mapping[str, torch.Tensor]


class ProjectorWithObjective(nn.Module):
    """All that is optimized: a projector, the parameters of its objective if it has one, and an LLM's adapters if they
    are trained; the forward pass does not use the latter."""

    def __init__(self, projector: Projector, objective: Objective | None, adapter: nn.Module | None = None) -> None:
        super().__init__()
        self.projector = projector
        self.objective = objective
        self.adapter = adapter

    def forward(self, batch: DeviceBatch) -> ProjectorOutput:
        projected = self.projector.project(batch.features_BTD, batch.frames_B)
        sums = self.objective(projected, batch) if self.objective is not None else {}
        return ProjectorOutput(projected, sums)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What validation found.

    Attributes:
        figures: by name, for the log.
        histograms: values by name, any shape, for the trackers.
        stop_reason: why training may end here; None to continue.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    stop_reason: str | None = None


class Stage(Protocol):
    """What a training stage defines, stage 1 or stage 2.

    Attributes:
        shares_evaluation: whether `evaluate` is called in every process; else in the main one alone.
    """

    shares_evaluation: bool

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        """Positions each part of the loss will be summed over; scalars (float32) on the batch's device."""

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        """Run the model, a `ProjectorWithObjective`; scalar sums (float32) of each part, differentiable."""

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss from sums and the step's counts; linear in the sums."""

    def take_flop(self) -> float:
        """FLOP of a frozen LLM in this process since the last call; 0 where there is none."""

    def evaluate(self, model: Projector, step: int) -> Evaluation:
        """Figures on the validation split; `model` is in eval mode, without gradients. The main process logs them."""

    def save(self, out: Path) -> Mapping[str, Any]:
        """Write what the stage trains besides the projector into the run's folder; returns what is recorded of it (JSON
        values)."""


class ObjectiveStage:
    """A stage whose loss is its objective and nothing else: all of stage 1.

    Args:
        validate: figures of a projector at a step; None for no validation.
    """

    shares_evaluation = False

    def __init__(self, objective: Objective, validate: Callable[[Projector, int], Evaluation] | None) -> None:
        self._objective = objective
        self._validate = validate

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        return self._objective.counts(batch)

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        sums: Mapping[str, torch.Tensor] = model(batch).sums
        return sums

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._objective.combine(sums, counts)

    def take_flop(self) -> float:
        return 0.0

    def evaluate(self, model: Projector, step: int) -> Evaluation:
        return self._validate(model, step) if self._validate else Evaluation()

    def save(self, out: Path) -> Mapping[str, Any]:
        return {}
