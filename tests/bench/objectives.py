"""Stage 1 objectives at equal steps on the demo corpus, several seeds: what `make demo` left in demo/store.

    python tests/bench/objectives.py [--store demo/store] [--steps 500] [--seeds 3] [--negatives 1000] --out OUT

All objectives of one seed are trained from one read of the store, with the demo preset's projector, batches, learning
rate and schedule. Every run keeps its folder; figures are of the test split, by nearest token (CTC by its own rule).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from speechmapper.config import ObjectiveConfig, Stage1Config
from speechmapper.config_file import load_stage1
from speechmapper.eval.predict import PredictRequest
from speechmapper.eval.score import evaluate_asr
from speechmapper.train.stage1 import Stage1Request, train_variants

OBJECTIVES = ("mse", "mse+cosine", "l1+cosine+contrastive", "mse+cosine+ctc", "ctc-embedding")
FIGURES = ("wer", "cer", "relative_mse")


def variant(config: Stage1Config, name: str, negatives: int) -> Stage1Config:
    """The configuration with another objective, at its default weights."""
    return dataclasses.replace(config, objective=ObjectiveConfig(name, negatives=negatives))


def measure(
    store: Path, out: Path, steps: int, seeds: Sequence[int], negatives: int
) -> dict[str, list[dict[str, float]]]:
    """Test figures by objective, one entry a seed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in OBJECTIVES}
    for seed in seeds:
        settings = [f"schedule.steps={steps}", f"seed={seed}", "run.eval_every=0", "run.save_every=0"]
        config = load_stage1("demo", None, settings)
        runs = {out / f"{name}-seed{seed}": variant(config, name, negatives) for name in OBJECTIVES}
        train_variants(Stage1Request(store, out, config), runs)
        for (run, _), name in zip(runs.items(), OBJECTIVES, strict=True):
            metrics = evaluate_asr(PredictRequest(run, run / "test", store))
            found[name].append({each: metrics[each] for each in FIGURES})
    return found


def in_columns(found: dict[str, list[dict[str, float]]], title: str) -> Table:
    """Means over the seeds, with the least and the most."""
    table = Table("objective", *FIGURES, title=title)
    for column in table.columns:
        column.no_wrap = True
    for name, rows in found.items():
        cells = []
        for figure in FIGURES:
            values = [row[figure] for row in rows]
            cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        table.add_row(name, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("demo/store"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--negatives", type=int, default=1000, help="rows of the vocabulary drawn a batch; 0: all")
    given = parser.parse_args()
    found = measure(given.store, given.out, given.steps, range(1, given.seeds + 1), given.negatives)
    Console(file=sys.stdout).print(in_columns(found, f"{given.steps} steps, {given.seeds} seeds, test split"))


if __name__ == "__main__":
    main()
