"""What follows a step's gradients: the learning rate by schedule, clipping, AdamW, the moving average of the weights.

    step      0 ........ warmup ..................... steps
    factor    linear to 1        cosine to 0, or constant 1          of the peak learning rate

The paper: 100 K warm-up steps, then a cosine to step 2 M in stage 1; constant in stage 2. The rate is a function of the
step, so a resumed run needs no scheduler state.

A non-finite gradient is skipped and counted: a single bad batch or an overflow in low precision costs one step. Many in
a row mean that the run has diverged, and end it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sm_store.errors import RunFailed
from speechmapper.config import OptimizerConfig, ScheduleConfig, Stage1Config, Stage2Config
from speechmapper.projector import Projector

PEAK = "peak"  # of a group's learning rate, in the group
AVERAGE = "average."  # prefix of the averaged weights among a checkpoint's tensors


def lr_factor(step: int, schedule: ScheduleConfig) -> float:
    """The factor on the peak learning rate for step `step`, counted from 0; above 0 for every step."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.shape == "constant":
        return 1.0
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def build_optimizer(
    model: torch.nn.Module,
    options: OptimizerConfig,
    adapter: torch.nn.Module | None = None,
    adapter_lr: float | None = None,
) -> torch.optim.Optimizer:
    """AdamW over all parameters (paper).

    Args:
        adapter: the part of the model that is a group of its own, with `adapter_lr` as its peak; None: `options.lr`.
    """
    apart = list(adapter.parameters()) if adapter is not None else []
    ids = {id(parameter) for parameter in apart}
    groups = [{"params": [each for each in model.parameters() if id(each) not in ids], PEAK: options.lr}]
    if apart:
        groups.append({"params": apart, PEAK: adapter_lr or options.lr})
    betas = (options.betas[0], options.betas[1])
    return torch.optim.AdamW(groups, options.lr, betas=betas, weight_decay=options.weight_decay, fused=True)


class ScheduledOptimizer:
    """An optimizer with its learning rate schedule, gradient clipping and count of skipped steps.

    Args:
        model: what learns, not what `accelerator.prepare` wraps around it.
        optimizer: as `accelerator.prepare` returns it.

    Attributes:
        skipped: steps whose gradient was not finite.
    """

    def __init__(
        self,
        config: Stage1Config | Stage2Config,
        model: torch.nn.Module,
        optimizer: Any,
        accelerator: Accelerator,
    ) -> None:
        self._config, self._model, self._optimizer = config, model, optimizer
        self._accelerator = accelerator
        self.skipped = 0
        self._skipped_in_a_row = 0

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, step: int) -> bool:
        """Apply the gradients of step `step` (from 0) and clear them; False where they were not finite.

        Raises:
            RunFailed: the last of `run.max_skipped` skipped steps in a row.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = group[PEAK] * lr_factor(step, self._config.schedule)
        limit = self._config.optimizer.clip or float("inf")
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), limit)
        finite = bool(torch.isfinite(norm))
        # fp16's gradient scaler has to see the step it skips, to lower its scale.
        if finite or self._accelerator.scaler is not None:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        self.skipped += not finite
        if self._skipped_in_a_row >= self._config.run.max_skipped:
            raise RunFailed(
                f"{self._skipped_in_a_row} steps in a row with a non-finite gradient, the last is step {step + 1}; "
                "lower optimizer.lr or set run.precision=fp32, then --resume"
            )
        return finite

    def tensors(self) -> dict[str, torch.Tensor]:
        """AdamW's moments for a checkpoint, named `INDEX.KEY` by parameter order."""
        return {
            f"{index}.{key}": torch.as_tensor(value)
            for index, entry in self._optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }

    def counters(self) -> dict[str, Any]:
        """The rest of the state, as JSON values."""
        scaler = self._accelerator.scaler
        return {"skipped": self.skipped, "scaler": scaler.state_dict() if scaler else None}

    def restore(self, tensors: Mapping[str, torch.Tensor], counters: Mapping[str, Any]) -> None:
        """Restore `tensors()` and `counters()`; weight decay and the like stay as configured."""
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            entries.setdefault(int(index), {})[key] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
        self.skipped = counters["skipped"]
        if self._accelerator.scaler is not None and counters["scaler"]:
            self._accelerator.scaler.load_state_dict(counters["scaler"])


class MovingAverage:
    """An exponential moving average of a projector's weights: what is validated and saved, where it is switched on.

    Args:
        projector: the one that is trained; averaged from where its weights are now.
        decay: of the average at each step; 0 for none.
    """

    def __init__(self, projector: Projector, decay: float) -> None:
        self._trained = projector
        self._averaged = AveragedModel(projector, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None

    @property
    def projector(self) -> Projector:
        """The averaged projector; without averaging the trained one."""
        if self._averaged is None:
            return self._trained
        return cast(Projector, self._averaged.module)

    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        if self._averaged is not None:
            self._averaged.update_parameters(self._trained)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors for a checkpoint, with names that begin with `average.`; empty without averaging."""
        state = self._averaged.state_dict() if self._averaged is not None else {}
        return {f"{AVERAGE}{name}": tensor for name, tensor in state.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `tensors()` from all of a checkpoint's tensors."""
        if self._averaged is not None:
            own = {name.removeprefix(AVERAGE): value for name, value in tensors.items() if name.startswith(AVERAGE)}
            self._averaged.load_state_dict(own)
