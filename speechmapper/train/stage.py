"""What a stage gives the loop: how to turn a batch into sums, sums into a loss, and a model into figures.

    counts = task.counts(batch)         {"word": 37, "pad": 21}       known before the model runs
    sums   = task.sums(model, batch)    {"word": 41.2, "pad": 3.0}    differentiable, over those positions
    loss   = task.combine(sums, counts of the whole step)

Because counts are known first, every micro-batch is divided by the counts of the *step* (all micro-batches of
all processes) and goes through backward at once: the mean over valid positions of the step, in the memory of
one micro-batch, however the step is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from speechmapper.loader.prefetch import DeviceBatch


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What validation found.

    Attributes:
        figures: by name, for the log.
        histograms: values by name, any shape, for the trackers.
        enough: why training may end here, None: it goes on.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    enough: str | None = None


class Task(Protocol):
    """One stage's share of the training loop."""

    def counts(self, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        """Positions each part of the loss will be summed over; scalars (float32) on the batch's device."""

    def sums(self, model: nn.Module, batch: DeviceBatch) -> Mapping[str, torch.Tensor]:
        """Run the model, a `Learner`; scalar sums (float32) of each part, differentiable."""

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss from sums and the step's counts; linear in the sums."""

    def evaluate(self, model: Any, step: int) -> Evaluation:
        """Figures on the validation split; `model` is the projector in eval mode, without gradients."""
