"""Two evaluations of the same utterances: differences of their metrics, with intervals and p-values.

    compare(Path("a"), Path("b"))
    {"utterances": 144, "resamples": 1000, "metrics": {"wer": {"first": 0.10, "second": 0.08, "difference": -0.02,
     "ci95": [-0.03, -0.01], "p": 0.002}, ...}}

Both are resampled together: each resample draws the same utterances of the two (paired bootstrap). `difference` is
second less first, `ci95` the middle 95 % of the resamples' differences. The p-value is two-sided: how often the
difference of a resample, less the mean of all, is at least as large, in either direction, as the one measured (Riezler
and Maxwell 2005, with both directions counted; sacrebleu's paired bootstrap counts one, and so gives about half).

COMET is compared by the segment scores in the two folders, where both have them of one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sm_store.errors import ConfigError, quoted
from speechmapper.eval.comet import comet_segments
from speechmapper.eval.predictions import ABOUT_FILE, read_predictions
from speechmapper.eval.score import recorded_normalizer, recorded_task
from speechmapper.measure.sums import RESAMPLES, TAILS, Sums, ratio, resampled
from speechmapper.tasks import Task

COMET = "comet"
SAME = ("id", "language", "wording", "reference")  # of the two evaluations' lines
Predictions = Sequence[Mapping[str, Any]]


def compare(first: Path, second: Path, normalizer: str | None = None) -> dict[str, Any]:
    """Compare the evaluations in two folders.

    Args:
        normalizer: name of the text normaliser of both; None: their runs' own, which has to be the same.

    Raises:
        ConfigError: no predictions there, of different tasks or utterances, with different references or normalisers.
    """
    tasks, lines = [], []
    for out in (first, second):
        predictions, about = read_predictions(out)
        task = recorded_task(about, out / ABOUT_FILE)
        tasks.append(task.with_normalizer(normalizer or recorded_normalizer(about)))
        lines.append(predictions)
    require_same_lines(tasks, lines, (first, second))
    rows = np.arange(len(lines[0]))
    metrics = [dict(task.scored(each).sums()) for task, each in zip(tasks, lines, strict=True)]
    for found, segments in zip(metrics, _segments(lines, (first, second)), strict=False):
        found[COMET] = segments
    chosen = [name for name in metrics[0] if name in metrics[1]]
    one, two = (resampled({name: each[name] for name in chosen}, rows) for each in metrics)
    return {
        "first": str(first),
        "second": str(second),
        "task": tasks[0].name,
        "normalizer": tasks[0].normalizer,
        "utterances": len(rows),
        "resamples": RESAMPLES,
        "metrics": {
            name: paired(metrics[0][name].value(rows), metrics[1][name].value(rows), one[name], two[name])
            for name in chosen
        },
    }


def paired(first: float | None, second: float | None, first_R: np.ndarray, second_R: np.ndarray) -> dict[str, Any]:
    """One metric's values, difference, interval and p-value, from its resamples; None where it is not measured."""
    found: dict[str, Any] = {"first": first, "second": second, "difference": None, "ci95": None, "p": None}
    differences = second_R - first_R
    differences = differences[~np.isnan(differences)]
    if first is None or second is None or not len(differences):
        return found
    difference = second - first
    centred = np.abs(differences - differences.mean())
    as_large = int((centred >= abs(difference) - 1e-12).sum())
    return {
        **found,
        "difference": difference,
        "ci95": [float(end) for end in np.percentile(differences, TAILS)],
        "p": (as_large + 1) / (len(differences) + 1),
    }


def require_same_lines(tasks: Sequence[Task], lines: Sequence[Predictions], folders: tuple[Path, Path]) -> None:
    """Check that two evaluations are of the same utterances, asked the same and scored in the same way.

    Raises:
        ConfigError: they are not; the first difference is named.
    """
    first, second = folders
    where = f"{first} and {second}"
    for name in ("name", "scored_by", "normalizer"):
        one, two = (getattr(task, name) for task in tasks)
        if one != two:
            shown = {"name": "tasks", "scored_by": "scores", "normalizer": "text normalisers"}[name]
            remedy = "; name one with --normalizer" if name == "normalizer" else ""
            raise ConfigError(f"{where}: different {shown}, {one} and {two}{remedy}")
    for number, (one, two) in enumerate(zip(*lines, strict=False), start=1):
        for name in SAME:
            if one.get(name) != two.get(name):
                raise ConfigError(
                    f"{where}: line {number}: {name} {quoted(one.get(name))} and {quoted(two.get(name))}; compare "
                    "evaluations of the same utterances"
                )
    counts = [len(each) for each in lines]
    if counts[0] != counts[1]:
        raise ConfigError(
            f"{where}: {counts[0]:,} and {counts[1]:,} predictions; compare evaluations of the same split"
        )


def _segments(lines: Sequence[Predictions], folders: Sequence[Path]) -> list[Sums]:
    """COMET (x 100) of both evaluations; empty where one has no scores, or they are of different models."""
    kept = [comet_segments(out, predictions, None) for out, predictions in zip(folders, lines, strict=True)]
    if kept[0][1] != kept[1][1]:
        return []
    return [
        Sums(np.array([[100 * score, 1.0] for score in scores], np.float64), ratio)
        for scores, _ in kept
        if scores is not None
    ]
