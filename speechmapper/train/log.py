"""What a run tells: `metrics.jsonl`, the trackers, and figures on the progress bar.

    {"step": 50, "loss": 4.1, "word": 0.62, "lr": 5e-05, "audio_seconds_per_second": 310.2, "data_wait": 0.01}
    {"step": 500, "dev_wer": 0.41, "dev_relative_mse": 0.48}

One JSON object a line, training figures and validation figures alike. A resumed run first cuts the lines
after the step it goes on from, so each step is told once. Only the main process writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from sm_store.durable import write_file

METRICS_FILE = "metrics.jsonl"
EXAMPLES_FILE = "examples.txt"


class Report:
    """Writes one run's figures.

    Args:
        run: the run's folder.
        accelerator: its trackers get every figure too.
        settings: the resolved configuration, for the trackers.
    """

    def __init__(self, run: Path, accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
        self._trackers = list(settings["run"]["trackers"])
        self._path = run / METRICS_FILE
        self._accelerator = accelerator
        if accelerator.log_with:
            # TensorBoard turns a configuration into folders of its own; config.yaml is beside it anyway.
            only_tensorboard = self._trackers == ["tensorboard"]
            accelerator.init_trackers(
                "speechmapper", None if only_tensorboard else flatten(settings), run_names(run.absolute().name)
            )

    def restart_at(self, step: int) -> None:
        """Forget what was written after `step`."""
        if self._accelerator.is_main_process and self._path.is_file():
            write_file(self._path, kept_lines(self._path.read_bytes(), step))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One line; a figure that is not finite is written as null."""
        if not self._accelerator.is_main_process:
            return
        rounded = {name: _rounded(value) for name, value in figures.items()}
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, **rounded}) + "\n")
        self._accelerator.log({name: value for name, value in rounded.items() if value is not None}, step=step)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Distributions, to the tracker that draws them."""
        if self._accelerator.is_main_process and "tensorboard" in self._trackers:
            writer = self._accelerator.get_tracker("tensorboard").writer
            for name, numbers in values.items():
                writer.add_histogram(name, numbers, step)

    def close(self) -> None:
        self._accelerator.end_training()


def run_names(name: str) -> dict[str, dict[str, str]]:
    """What makes each tracker call the run `name`, for `Accelerator.init_trackers`."""
    return {"wandb": {"name": name}, "mlflow": {"run_name": name}, "trackio": {"name": name}}


def kept_lines(data: bytes, step: int) -> bytes:
    """The complete lines of `metrics.jsonl` up to `step`."""
    kept = []
    for line in data.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue  # the line a killed run did not finish
    return b"".join(kept)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings as `group.key` with values every tracker takes."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def _rounded(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
