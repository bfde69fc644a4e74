"""What a run adds up between two lines of its log: sums and counts of the loss, frames read, time.

    interval.add_step(ready)                 after each step
    interval.add_loss(sums, counts)          unless it was skipped; stays on the device
    with interval.paused(): ...              evaluating and saving are not training time
    totals = interval.totals(accelerator)    over all processes, as plain numbers

A figure of the log is thus a mean over all positions of all steps since the line before.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from speechmapper.loader.prefetch import StepBatches


@dataclass(frozen=True, slots=True)
class Totals:
    """One interval over all processes.

    Attributes:
        sums, counts: of each part of the loss, float32 scalars; empty where every step was skipped.
        frames, tokens: valid frames and text tokens read.
        wait: seconds a process waited for data, on average.
        seconds: of training; steps: optimizer steps.
    """

    sums: Mapping[str, torch.Tensor]
    counts: Mapping[str, torch.Tensor]
    frames: float
    tokens: float
    wait: float
    seconds: float
    steps: int

    def means(self) -> dict[str, float]:
        """Each part's mean over its positions."""
        return {name: float(value / self.counts[name].clamp(min=1)) for name, value in self.sums.items()}


@dataclass(slots=True)
class Interval:
    """The running sums of one process."""

    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _counts: dict[str, torch.Tensor] = field(default_factory=dict)
    _frames: int = 0
    _tokens: int = 0
    _wait: float = 0.0
    _steps: int = 0
    _started: float = field(default_factory=time.perf_counter)

    def add_step(self, ready: StepBatches) -> None:
        """Add what a step read, whatever became of it."""
        self._frames += ready.frames
        self._tokens += ready.tokens
        self._wait += ready.wait
        self._steps += 1

    def add_loss(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> None:
        """Add the loss of a step that was not skipped: this process's sums, the counts of the whole step."""
        for total, part in ((self._sums, sums), (self._counts, counts)):
            for name, value in part.items():
                total[name] = total[name] + value if name in total else value

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in the block does not count."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def totals(self, accelerator: Accelerator) -> Totals:
        """What was added up, over all processes."""
        names = list(self._sums)
        own = torch.tensor([float(self._frames), float(self._tokens), self._wait], device=accelerator.device)
        values = accelerator.reduce(torch.stack([*(self._sums[name] for name in names), *own]), "sum").cpu()
        return Totals(
            sums=dict(zip(names, values, strict=False)),
            counts={name: self._counts[name].cpu() for name in names},
            frames=float(values[-3]),
            tokens=float(values[-2]),
            wait=float(values[-1]) / accelerator.num_processes,
            seconds=time.perf_counter() - self._started,
            steps=self._steps,
        )


def peak_gigabytes(device: torch.device) -> float:
    """The most memory this process has held: the GPU's since the last call, else main memory since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
