"""The table of the runs: what was evaluated, on what, and the main metrics with their 95 % intervals.

run_table(evaluations)        Table("Runs", run, task, readout, LLM, head, split, utterances, WER %, ...)
identity_of(evaluation)       {"run.encoder.layer": "24", "versions.torch": "2.13.0", ...}: what made it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechmapper.eval.report.evaluations import Evaluation, number
from speechmapper.eval.report.settings import condition_of, flattened, setting_text
from speechmapper.eval.report.shown_metrics import FURTHER, MAIN, present, shown
from speechmapper.eval.report.tables import ABSENT, Cell, Column, Row, Table

NO_LLM = "none"


def run_table(evaluations: Sequence[Evaluation]) -> Table:
    """All runs with their main metrics; columns that no run has anything for are left out."""
    settings = ["task", "readout", "llm", "head", "split"]
    labels = {"llm": "LLM"}
    conditions = [condition_of(run.about) for run in evaluations]
    metrics = present(evaluations, (*MAIN, *FURTHER))
    heads = [Column("run"), *(Column(labels.get(name, name)) for name in settings)]
    heads += [Column("condition")] if any(conditions) else []
    heads += [Column("utterances", number=True), *(Column(metric.label, number=True) for metric in metrics)]
    rows = []
    for run, condition in zip(evaluations, conditions, strict=True):
        cells = [Cell(run.name), *(Cell(_setting(run, name)) for name in settings)]
        cells += [Cell(condition or "as recorded")] if any(conditions) else []
        count = number(run.metrics, "utterances")
        cells += [Cell(f"{len(run.predictions) if count is None else int(count):,}")]
        rows.append(Row((*cells, *(shown(run.metrics, metric) for metric in metrics))))
    notes = ["In brackets: 95 % intervals."] if any("[" in cell.text for row in rows for cell in row.cells) else []
    return Table("Runs", tuple(heads), rows, notes)


def identity_of(evaluation: Evaluation) -> dict[str, str]:
    """What made an evaluation, as names and values."""
    return {name: setting_text(value) for name, value in flattened(evaluation.about).items()}


def _setting(run: Evaluation, name: str) -> str:
    if name == "task":
        return run.task
    value: Any = run.about.get(name, ABSENT)
    if value is None:
        return NO_LLM if name == "llm" else ABSENT
    return setting_text(value)
