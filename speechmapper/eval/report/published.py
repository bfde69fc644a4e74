"""Published results beside the user's: the tables of `published.yaml`, with a row for each run that fits one.

    beside_published(evaluations)        [Table("Speech translation, COMET", ...), ...]

A run stands in the column of a test set if it has predictions on its test split with that corpus, language of the
speech and language of the answer. Its value there is, in this order: its metric, where all of its predictions are of
the column; that of the column's group in `by` or `by_language` of metrics.json, where the group is exactly the
column; else the metric computed again from the predictions, where that needs no model. So a COMET that was measured
over several test sets at once is not shown for one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from sm_pipeline.languages import tag_or_name
from speechmapper.eval.report.evaluations import Evaluation, Prediction, number
from speechmapper.eval.report.shown_metrics import MAIN, Metric, shown
from speechmapper.eval.report.tables import ABSENT, Cell, Column, Row, Table
from speechmapper.eval.score import recorded_task

PUBLISHED = Path(__file__).parent / "published.yaml"
TEST = "test"
FIELDS = ("corpus", "lang", "language")
WITHOUT_A_MODEL = ("wer", "bleu")


@lru_cache
def published_tables() -> list[dict[str, Any]]:
    """The contents of published.yaml."""
    tables: list[dict[str, Any]] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["tables"]
    return tables


def beside_published(evaluations: Sequence[Evaluation]) -> list[Table]:
    """The published tables of the tasks that were evaluated, with the user's rows after the published ones."""
    tasks = {run.task for run in evaluations}
    return [_with_own_rows(table, evaluations) for table in published_tables() if table["task"] in tasks]


def belongs(line: Prediction, column: Mapping[str, str]) -> bool:
    """Whether a prediction is of a column's test set."""
    if line.get("corpus") != column["corpus"] or not str(line.get("id", "")).startswith(column.get("id", "")):
        return False
    languages = [name for name in ("lang", "language") if name in column]
    # Speech without a recorded language is taken as the column's: corpora of one language often leave it out.
    found = {"lang": line.get("lang", column.get("lang")), "language": line.get("language")}
    return all(_tag(found[name]) == column[name] for name in languages)


def _tag(name: Any) -> str | None:
    return tag_or_name(name) if isinstance(name, str) else None


def _with_own_rows(table: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> Table:
    metric = next(each for each in MAIN if each.key == table["metric"])
    columns = table["columns"]
    heads = (Column("system"), Column("source"), *(Column(column["label"], number=True) for column in columns))
    rows = [
        Row((Cell(row["system"]), Cell(f"arXiv {row['source']}"), *map(_published, row["values"])))
        for row in table["rows"]
    ]
    own = []
    for run in (each for each in evaluations if each.task == table["task"]):
        cells = [_cell(run, metric, column) for column in columns]
        if any(cells):
            values = (cell or Cell(ABSENT) for cell in cells)
            own.append(Row((Cell(run.name), Cell("this report"), *values), own=True))
    notes = list(table.get("notes", ()))
    if not own:
        corpora = ", ".join(dict.fromkeys(column["corpus"] for column in columns))
        notes.append(f"No run of this report has predictions on the test split of these corpora ({corpora}).")
    return Table(table["title"], heads, [*rows, *own], notes)


def _published(value: float | None) -> Cell:
    return Cell(ABSENT if value is None else f"{value:g}" if value >= 1000 else f"{value:.2f}".removesuffix("0"))


def _cell(run: Evaluation, metric: Metric, column: Mapping[str, str]) -> Cell | None:
    """A run's value in a column; None where it has no predictions there."""
    if run.about.get("split") not in (None, TEST) or run.about.get("condition") is not None:
        return None
    lines = [line for line in run.predictions if belongs(line, column)]
    if not lines:
        return None
    if len(lines) == len(run.predictions):
        return shown(run.metrics, metric)
    for group, metrics in _groups(run):
        same = [line for line in run.predictions if all(line.get(name) == value for name, value in group.items())]
        if same == lines:
            return shown(metrics, metric)
    if metric.key not in WITHOUT_A_MODEL:
        return Cell(ABSENT, "measured over several test sets at once; evaluate this one alone")
    return _measured_again(run, metric, lines)


def _groups(run: Evaluation) -> list[tuple[dict[str, str], Mapping[str, Any]]]:
    """The groups of predictions that metrics.json has metrics of."""
    by = {"language": run.metrics.get("by_language")}
    found = run.metrics.get("by")
    by |= found if isinstance(found, Mapping) else {}
    return [
        ({name: value}, metrics)
        for name, values in by.items()
        if isinstance(values, Mapping)
        for value, metrics in values.items()
        if isinstance(metrics, Mapping)
    ]


def _measured_again(run: Evaluation, metric: Metric, lines: Sequence[Prediction]) -> Cell:
    normalizer = run.metrics.get("normalizer")
    task = recorded_task(run.about, run.path)
    metrics = (task.with_normalizer(normalizer) if isinstance(normalizer, str) else task).score(lines)
    return shown(metrics, metric) if number(metrics, metric.key) is not None else Cell(ABSENT)
