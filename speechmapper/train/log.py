"""The log of a run: `metrics.jsonl`, the trackers, and the sums that its figures are made from.

    interval.add_step(step_batches)                  after each step
    interval.add_loss(sums, counts)                  unless the step was skipped; stays on the device
    with interval.paused(): ...                      evaluating and saving are not training time
    totals = interval.totals(accelerator)            over all processes, as plain numbers
    log.write(50, {"loss": 4.1, **totals.means()})   {"step": 50, "loss": 4.1, "word": 0.62, "data_wait": 0.01, ...}
    log.write(500, {"dev_wer": 0.41})                {"step": 500, "dev_wer": 0.41}

One JSON object per line, training and validation figures alike. A training figure is a mean over all positions of all
steps since the line before. Validation adds to `norms.jsonl` and `examples.txt`. A resumed run first removes from all
three what came after the step it continues from, so that each step is there once.
"""

from __future__ import annotations

import json
import math
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from sm_store.durable import write_file
from speechmapper.flop import peak_flop
from speechmapper.loader.prefetch import StepBatches

METRICS_FILE = "metrics.jsonl"
NORMS_FILE = "norms.jsonl"
EXAMPLES_FILE = "examples.txt"
_EXAMPLES_OF = re.compile(rb"^step (\d+)$", re.MULTILINE)  # the heading of one validation's examples


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of one interval over all processes.

    Attributes:
        sums, counts: of each part of the loss, float32 scalars; empty where every step was skipped.
        frames, tokens: valid frames and text tokens read.
        flop: of a frozen LLM, by arithmetic (speechmapper/flop.py).
        wait: seconds a process waited for data, on average.
        seconds: of training; steps: steps taken, skipped ones included.
    """

    sums: Mapping[str, torch.Tensor]
    counts: Mapping[str, torch.Tensor]
    frames: float
    tokens: float
    flop: float
    wait: float
    seconds: float
    steps: int

    def means(self) -> dict[str, float]:
        """Mean of each part of the loss over its positions."""
        return {name: float(value / self.counts[name].clamp(min=1)) for name, value in self.sums.items()}

    def speed_of_llm(self, accelerator: Accelerator) -> dict[str, float]:
        """`llm_tflops_per_second`, over all processes, and `llm_mfu`, of what the GPUs reach at most in 16 bit; only
        what there is and is known."""
        if not self.flop:
            return {}
        rate, peak = self.flop / self.seconds, peak_flop(accelerator.device)
        used = {"llm_mfu": rate / (peak * accelerator.num_processes)} if peak else {}
        return {"llm_tflops_per_second": rate / 1e12, **used}


@dataclass(slots=True)
class Interval:
    """Running sums of one process since the last line of the log."""

    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _counts: dict[str, torch.Tensor] = field(default_factory=dict)
    _frames: int = 0
    _tokens: int = 0
    _flop: float = 0.0
    _wait: float = 0.0
    _steps: int = 0
    _started: float = field(default_factory=time.perf_counter)

    def add_step(self, step_batches: StepBatches, flop: float = 0.0) -> None:
        """Add what a step read and its LLM computed, whether or not it was skipped."""
        self._flop += flop
        self._frames += step_batches.frames
        self._tokens += step_batches.tokens
        self._wait += step_batches.wait
        self._steps += 1

    def add_loss(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> None:
        """Add the loss of a step that was not skipped: this process's sums, the counts of the whole step."""
        for total, part in ((self._sums, sums), (self._counts, counts)):
            for name, value in part.items():
                total[name] = total[name] + value if name in total else value

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent in the block as training time."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def totals(self, accelerator: Accelerator) -> Totals:
        """The sums over all processes; call in every process."""
        names = list(self._sums)
        own = torch.tensor(
            [float(self._frames), float(self._tokens), self._flop, self._wait], device=accelerator.device
        )
        values = accelerator.reduce(torch.stack([*(self._sums[name] for name in names), *own]), "sum").cpu()
        return Totals(
            sums=dict(zip(names, values, strict=False)),
            counts={name: self._counts[name].cpu() for name in names},
            frames=float(values[-4]),
            tokens=float(values[-3]),
            flop=float(values[-2]),
            wait=float(values[-1]) / accelerator.num_processes,
            seconds=time.perf_counter() - self._started,
            steps=self._steps,
        )


def peak_gigabytes(device: torch.device) -> float:
    """Peak memory of this process in 1e9 bytes: of its GPU since the last call, else of the host since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class RunLog:
    """Writes the figures of one run; only the main process writes.

    Args:
        run: the run's folder.
        accelerator: its trackers get every figure too.
        settings: the resolved configuration, for the trackers.
    """

    def __init__(self, run: Path, accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
        self._trackers = list(settings["run"]["trackers"])
        self._run, self._path = run, run / METRICS_FILE
        self._accelerator = accelerator
        if accelerator.log_with:
            # TensorBoard turns a configuration into folders of its own; config.yaml is beside it anyway.
            only_tensorboard = self._trackers == ["tensorboard"]
            accelerator.init_trackers(
                "speechmapper", None if only_tensorboard else flatten(settings), run_names(run.absolute().name)
            )

    def truncate_after(self, step: int) -> None:
        """Remove what was written after `step`, from every file of the log."""
        if not self._accelerator.is_main_process:
            return
        for name, kept in ((METRICS_FILE, kept_lines), (NORMS_FILE, kept_lines), (EXAMPLES_FILE, kept_examples)):
            path = self._run / name
            if path.is_file():
                write_file(path, kept(path.read_bytes(), step))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one line; a figure that is not finite is written as null."""
        if not self._accelerator.is_main_process:
            return
        written = {name: rounded(value) for name, value in figures.items()}
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, **written}) + "\n")
        self._accelerator.log({name: value for name, value in written.items() if value is not None}, step=step)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Send distributions to the tracker that draws them (TensorBoard)."""
        if self._accelerator.is_main_process and "tensorboard" in self._trackers:
            writer = self._accelerator.get_tracker("tensorboard").writer
            for name, numbers in values.items():
                writer.add_histogram(name, numbers, step)

    def close(self) -> None:
        """End the trackers."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def run_names(name: str) -> dict[str, dict[str, str]]:
    """Arguments that name the run in each tracker, for `Accelerator.init_trackers`."""
    return {"wandb": {"name": name}, "mlflow": {"run_name": name}, "trackio": {"name": name}}


def kept_lines(data: bytes, step: int) -> bytes:
    """The complete lines of `metrics.jsonl` or `norms.jsonl` up to `step`."""
    kept = []
    for line in data.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off when the run was killed
    return b"".join(kept)


def kept_examples(data: bytes, step: int) -> bytes:
    """`examples.txt` up to `step`: headings `step N`, each with its examples below it."""
    later = (heading.start() for heading in _EXAMPLES_OF.finditer(data) if int(heading[1]) > step)
    return data[: next(later, len(data))]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def last_figures(run: Path, step: int) -> dict[str, float]:
    """The loss and the figures of validation that a run's `metrics.jsonl` has last, up to `step`; {} without one."""
    figures: dict[str, float] = {}
    lines = kept_lines((run / METRICS_FILE).read_bytes(), step) if (run / METRICS_FILE).is_file() else b""
    for line in map(json.loads, lines.splitlines()):
        shown = {name: value for name, value in line.items() if name == "loss" or name.startswith("dev_")}
        figures.update({name: math.nan if value is None else value for name, value in shown.items()})
    return figures


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as `group.key`, with values that every tracker accepts."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def rounded(value: float) -> float | None:
    """A figure as the log has it: six digits; None where it is not finite, which JSON cannot say."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
