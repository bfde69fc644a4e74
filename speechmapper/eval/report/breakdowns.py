"""Metrics by group: by column of the corpus (speaker, language, corpus), entities by how frequent they are, judges.

    by_column(evaluations)       [Table("WER % by speaker", value, utterances, one column per run), ...]
    by_entry(evaluations)        [Table("Entities by occurrences ...", run, measure, 0, 1-9, 10-99, ...), ...]

Both show what is in metrics.json (`by` and `by_language`; `entities`, `judges` and `wordings`) and count nothing
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechmapper.eval.report.evaluations import Evaluation, number
from speechmapper.eval.report.shown_metrics import MAIN, Metric, present, shown, written
from speechmapper.eval.report.tables import ABSENT, Cell, Column, Row, Table

ENTRIES = {
    "entities": "Entities by occurrences in the training store",
    "judges": "Answers by judge",
    "wordings": "Metrics over several wordings of the instruction",
}
MOST_VALUES = 40  # of a column, that are shown: the worst
BUCKET_METRICS = {
    "recall": Metric("recall", "recall %"),
    "entity_recall": Metric("entity_recall", "recall %"),
    "wer": Metric("wer", "WER %", lower=True),
    "entity_wer": Metric("entity_wer", "WER %", lower=True),
}

Groups = Mapping[str, Mapping[str, Any]]


def by_column(evaluations: Sequence[Evaluation]) -> list[Table]:
    """A table per task, column and main metric; rows are the column's values."""
    tables = []
    for task in dict.fromkeys(run.task for run in evaluations):
        groups = {run.name: _groups(run) for run in evaluations if run.task == task}
        for column in dict.fromkeys(name for found in groups.values() for name in found):
            having = {name: found[column] for name, found in groups.items() if column in found}
            tables += _column_tables(task, column, having, evaluations)
    return tables


def by_entry(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Entities by bucket of frequency, answers by judge, metrics over several wordings: those that any run has."""
    tables = (_entry_table(evaluations, key, title) for key, title in ENTRIES.items())
    return [table for table in tables if table is not None]


def _entry_table(evaluations: Sequence[Evaluation], key: str, title: str) -> Table | None:
    """Figures of each entry of a key of metrics.json; None where no run has any."""
    having = {run.name: _mappings(run.metrics.get(key)) for run in evaluations}
    names = list(dict.fromkeys(entry for entries in having.values() for entry in entries))
    rows = []
    for run, entries in having.items():
        for measure in dict.fromkeys(measure for figures in entries.values() for measure in figures):
            cells = [_entry_cell(entries.get(name, {}), measure) for name in names]
            if any(cell.text != ABSENT for cell in cells):
                label = BUCKET_METRICS[measure].label if measure in BUCKET_METRICS else measure.replace("_", " ")
                rows.append(Row((Cell(run), Cell(label), *cells)))
    columns = (Column("run"), Column("measure"), *(Column(name, number=True) for name in names))
    return Table(title, columns, rows) if rows else None


def _groups(run: Evaluation) -> dict[str, Groups]:
    """Metrics by value, by column, where there are any."""
    by = run.metrics.get("by")
    found: dict[str, Any] = {"language": run.metrics.get("by_language"), **(by if isinstance(by, Mapping) else {})}
    groups = {str(column): _mappings(values) for column, values in found.items()}
    return {column: values for column, values in groups.items() if values}


def _mappings(values: Any) -> dict[str, Mapping[str, Any]]:
    entries = values.items() if isinstance(values, Mapping) else ()
    return {str(name): metrics for name, metrics in entries if isinstance(metrics, Mapping)}


def _column_tables(
    task: str, column: str, having: Mapping[str, Groups], evaluations: Sequence[Evaluation]
) -> list[Table]:
    runs = [run for run in evaluations if run.name in having]
    tables = []
    for metric in present(runs, MAIN):
        values = dict.fromkeys(value for groups in having.values() for value in groups)
        if not any(number(groups[value], metric.key) is not None for groups in having.values() for value in groups):
            continue
        ordered = sorted(values, key=lambda value, metric=metric: _badness(having, value, metric))  # type: ignore[misc]
        rows = [
            Row(
                (
                    Cell(value),
                    _count(having, value),
                    *(shown(groups.get(value, {}), metric) for groups in having.values()),
                )
            )
            for value in ordered[:MOST_VALUES]
        ]
        heads = (Column(column), Column("utterances", True), *(Column(name, number=True) for name in having))
        left = len(ordered) - len(rows)
        notes = [f"The worst {len(rows)} of {len(ordered):,} values."] if left else []
        tables.append(Table(f"{task}: {metric.label} by {column}", heads, rows, notes))
    return tables


def _badness(having: Mapping[str, Groups], value: str, metric: Metric) -> tuple[float, str]:
    """Sorts the worst value in any run first."""
    found = [number(groups[value], metric.key) for groups in having.values() if value in groups]
    known = [each for each in found if each is not None]
    if not known:
        return float("inf"), value
    return (-max(known) if metric.lower else min(known)), value


def _count(having: Mapping[str, Groups], value: str) -> Cell:
    counts = [number(groups[value], "utterances") for groups in having.values() if value in groups]
    known = [int(each) for each in counts if each is not None]
    return Cell(f"{max(known):,}" if known else ABSENT)


def _entry_cell(metrics: Mapping[str, Any], key: str) -> Cell:
    value = number(metrics, key)
    if value is None:
        return Cell(ABSENT)
    if key in BUCKET_METRICS:
        return shown(metrics, BUCKET_METRICS[key])
    return Cell(f"{int(value):,}" if value.is_integer() else written(value, Metric(key, key, 1.0)))
