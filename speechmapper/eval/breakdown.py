"""Metrics of parts of an evaluation: by a field of its lines, by language, by wording of the prompt.

    rows_by(predictions, "speaker")                    {"ann": [0, 2], "bob": [1]}
    breakdown(predictions, ("speaker",), figures)      {"by": {"speaker": {"ann": {"wer": 0.1, ...}, "bob": {...}}}}
    wording_spread(predictions, ["wer"], figures)      {"wordings": {"wer": {"mean": 0.2, "sd": 0.05, ...}}}

`figures` gives the metrics of some rows; nothing is counted anew for a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sm_store.errors import ConfigError, quoted

Predictions = Sequence[Mapping[str, Any]]
Figures = Callable[[np.ndarray], dict[str, Any]]
UNKNOWN = "unknown"  # value of a field that a line lacks


def rows_by(predictions: Predictions, column: str) -> dict[str, np.ndarray]:
    """The rows of each value of a field, by value; lines that lack it are under `unknown`.

    Raises:
        ConfigError: no line has the field.
    """
    rows: dict[str, list[int]] = {}
    for row, line in enumerate(predictions):
        value = line.get(column)
        rows.setdefault(UNKNOWN if value is None else str(value), []).append(row)
    if not any(line.get(column) is not None for line in predictions):
        there = sorted({name for line in predictions for name in line})
        raise ConfigError(f"--by {quoted(column)}: no prediction has it; there are {', '.join(there)}")
    return {value: np.array(rows[value], np.int64) for value in sorted(rows)}


def parse_columns(text: str | None) -> tuple[str, ...]:
    """The fields that `--by A,B` names, each once."""
    names = (name.strip() for name in (text or "").split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def breakdown(predictions: Predictions, columns: Sequence[str], figures: Figures) -> dict[str, Any]:
    """`by`: the metrics by each of these fields and its values; nothing without fields.

    Raises:
        ConfigError: a field that no line has.
    """
    if not columns:
        return {}
    parts = {column: rows_by(predictions, column) for column in columns}
    return {"by": {column: {value: figures(rows) for value, rows in each.items()} for column, each in parts.items()}}


def by_language(predictions: Predictions, figures: Figures) -> dict[str, Any]:
    """`by_language`: the metrics by the language of the answers, where there are several."""
    languages = {line["language"] for line in predictions if line.get("language") is not None}
    if len(languages) < 2:
        return {}
    parts = rows_by(predictions, "language")
    return {"by_language": {value: figures(rows) for value, rows in parts.items() if value != UNKNOWN}}


def wording_spread(predictions: Predictions, names: Sequence[str], figures: Figures) -> dict[str, Any]:
    """`wordings`: mean, standard deviation (of a sample), least and greatest of metrics over the prompt's wordings.

    Nothing where there are not several wordings; a metric that a wording lacks is left out.
    """
    if len({line["wording"] for line in predictions if line.get("wording") is not None}) < 2:
        return {}
    each = [figures(rows) for value, rows in rows_by(predictions, "wording").items() if value != UNKNOWN]
    spread = {}
    for name in names:
        values = [found[name] for found in each if isinstance(found.get(name), int | float)]
        if len(values) == len(each):
            spread[name] = {
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)),
                "min": float(min(values)),
                "max": float(max(values)),
            }
    return {"wordings": spread}
