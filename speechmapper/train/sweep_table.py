"""The table that compares the runs of a sweep: one row per run.

    run                 steps  dev_wer  dev_llm_wer  dev_relative_mse  parameters  seconds
    lr-0.001_seed-1       900    0.006        0.020            0.9120   1,204,352      118
    lr-0.0001_seed-1      900    0.169                         0.9871   1,204,352      117

A figure that no run has gets no column; `ended` is there where a run ended otherwise than by its last step. All the
figures are in sweep.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sm_pipeline.console import print_json
from speechmapper.train.run import DONE
from speechmapper.train.sweep import LLM_WER, SWEEP_FILE

WIDTH_OF_FILES = 10_000  # a file or pipe has no width: rows are not folded
FIGURES = ("dev_wer", LLM_WER)
TASKS = ("dev_task_", "dev_unseen_")  # how the figures of stage 2's other tasks and wordings begin
DISTANCES = ("dev_relative_mse", "dev_eet_ratio")
FIRST_SCORES = {"_cer": "_wer", "_chrf": "_bleu", "_f1": "_exact_match"}  # by the second, which sweep.json alone has


def print_rows(rows: Sequence[Mapping[str, Any]], out: Path, as_json: bool) -> None:
    """Print the table, or one JSON object `{"out": OUT, "runs": rows}`, on stdout."""
    if as_json:
        print_json({"out": str(out), "runs": list(rows)})
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    columns = columns_of(rows)
    for name in columns:
        table.add_column(name, justify="left" if name == "ended" else "right", no_wrap=name != "ended")
    for row in rows:
        table.add_row(str(row["run"]), *(text(row) for text in columns.values()))
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    console.print(table)
    console.print(f"{out / SWEEP_FILE}", soft_wrap=True)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """The columns besides the run's name: their headings, and the text of a row in each."""

    def figure(name: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: _short(row["figures"].get(name))

    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {"steps": lambda row: str(row["step"])}
    found = {name: None for row in rows for name in row["figures"]}
    asked = [name for name in found if name.startswith(TASKS) and not _is_second(name, found)]
    columns |= {name: figure(name) for name in (*FIGURES, *asked, *DISTANCES) if name in found}
    columns["parameters"] = lambda row: f"{row['parameters']:,}"
    columns["seconds"] = lambda row: f"{row['seconds']:.0f}"
    if any(row["ended"] != DONE for row in rows):
        columns["ended"] = lambda row: str(row["ended"])
    return columns


def _is_second(name: str, found: Mapping[str, None]) -> bool:
    """Whether the figure is a task's second score, which only sweep.json has."""
    return any(name.endswith(last) and name.removesuffix(last) + first in found for last, first in FIRST_SCORES.items())


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
