"""One optimizer step: learning rate by schedule, clipping; a non-finite gradient is skipped and counted.

A single bad batch or an overflow in low precision costs one step; many in a row mean the run has diverged,
and end it.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from sm_store.errors import RunFailed
from speechmapper.config import OptimizerConfig, Stage1Config, Stage2Config
from speechmapper.train.checkpoint import optimizer_tensors, restore_optimizer
from speechmapper.train.schedule import lr_factor


def build_optimizer(model: torch.nn.Module, options: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters (paper)."""
    betas = (options.betas[0], options.betas[1])
    return torch.optim.AdamW(model.parameters(), options.lr, betas=betas, weight_decay=options.weight_decay, fused=True)


class Updater:
    """Steps the optimizer.

    Args:
        model: what learns, not what `accelerator.prepare` wraps around it. optimizer: as `prepare` returns it.
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
        self._in_row = 0

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, step: int) -> bool:
        """Use the gradients of step `step` (from 0) and clear them; False where they were not finite.

        Raises:
            RunFailed: the last of `run.max_skipped` bad steps in a row.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.optimizer.lr * lr_factor(step, self._config.schedule)
        limit = self._config.optimizer.clip or float("inf")
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), limit)
        finite = bool(torch.isfinite(norm))
        # fp16's gradient scaler has to see the step it skips, to lower its scale.
        if finite or self._accelerator.scaler is not None:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._in_row = 0 if finite else self._in_row + 1
        self.skipped += not finite
        if self._in_row >= self._config.run.max_skipped:
            raise RunFailed(
                f"{self._in_row} steps in a row with a non-finite gradient, the last is step {step + 1}; "
                "lower optimizer.lr or set run.precision=fp32, then --resume"
            )
        return finite

    def tensors(self) -> dict[str, torch.Tensor]:
        """AdamW's moments, for a checkpoint."""
        return optimizer_tensors(self._optimizer)

    def counters(self) -> dict[str, Any]:
        """The rest of the state, as JSON values."""
        scaler = self._accelerator.scaler
        return {"skipped": self.skipped, "scaler": scaler.state_dict() if scaler else None}

    def restore(self, tensors: dict[str, torch.Tensor], counters: dict[str, Any]) -> None:
        """Put `tensors()` and `counters()` back."""
        restore_optimizer(self._optimizer, tensors)
        self.skipped = counters["skipped"]
        if self._accelerator.scaler is not None and counters["scaler"]:
            self._accelerator.scaler.load_state_dict(counters["scaler"])
