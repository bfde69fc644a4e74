"""What is optimised: a projector and, while it learns, whatever its objective learns beside it.

    learner(batch) -> vectors (B, U, E), their lengths, and the objective's sums          one forward of one module,
                                                                                          as gradient averaging over
                                                                                          processes needs it

Only the projector outlives the run; the objective's own parameters (a CTC layer) are in its checkpoints alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.objectives import Objective
from speechmapper.projector import Projector

PROJECTOR, AVERAGE = "projector.", "average."  # of the names of a checkpoint's tensors


@dataclass(frozen=True, slots=True)
class Learned:
    """A batch's vectors (B, U, E), their lengths (B,), and the sums of the objective (none where it is not asked)."""

    vectors_BUE: torch.Tensor
    vectors_B: torch.Tensor
    sums: Mapping[str, torch.Tensor]


class Learner(nn.Module):
    """A projector with its objective; None: the vectors alone are wanted."""

    def __init__(self, projector: Projector, objective: Objective | None) -> None:
        super().__init__()
        self.projector = projector
        self.objective = objective

    def forward(self, batch: DeviceBatch) -> Learned:
        projected = self.projector.project(batch.features_BTD, batch.frames_B)
        sums = self.objective(projected, batch) if self.objective is not None else {}
        return Learned(projected.vectors_BUE, projected.vectors_B, sums)


class Average:
    """An exponential moving average of a projector's weights: what is validated and kept, where it is switched on.

    Args:
        decay: of the average at each step; 0: none, `projector` is the learning one.
    """

    def __init__(self, projector: Projector, decay: float) -> None:
        self._learning = projector
        self._averaged = AveragedModel(projector, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None

    @property
    def projector(self) -> Projector:
        """The averaged projector, or the learning one."""
        if self._averaged is None:
            return self._learning
        return cast(Projector, self._averaged.module)

    def update(self) -> None:
        """After a step of the optimizer."""
        if self._averaged is not None:
            self._averaged.update_parameters(self._learning)

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint, names begin with `average.`; empty where there is none."""
        state = self._averaged.state_dict() if self._averaged is not None else {}
        return {f"{AVERAGE}{name}": tensor for name, tensor in state.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put `tensors()` back."""
        if self._averaged is not None:
            own = {name.removeprefix(AVERAGE): value for name, value in tensors.items() if name.startswith(AVERAGE)}
            self._averaged.load_state_dict(own)
