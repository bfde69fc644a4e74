"""How metrics are named and written: `wer` 0.0230 with its interval as `2.30 [1.85, 2.81]` under the heading `WER %`.

    shown = present(evaluations, MAIN)        the main metrics that any of the evaluations has
    cell_of(evaluation, shown[0])             Cell("2.30 [1.85, 2.81]")

A metric that an evaluation does not have is a dash. One that could not be measured is the text "not measured: WHY" in
metrics.json: the cell says "not measured" and carries the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechmapper.eval.report.evaluations import Evaluation, interval, number
from speechmapper.eval.report.tables import ABSENT, Cell

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Metric:
    """A key of metrics.json.

    Attributes:
        label: heading of its column, with the unit.
        factor: what a value is multiplied with to be shown: 100 for fractions.
        digits: after the decimal point.
        lower: whether less is better; None: neither is.
    """

    key: str
    label: str
    factor: float = 100.0
    digits: int = 2
    lower: bool | None = False


MAIN = (
    Metric("wer", "WER %", lower=True),
    Metric("cer", "CER %", lower=True),
    Metric("bleu", "BLEU", 1.0),
    Metric("chrf", "chrF", 1.0),
    Metric("comet", "COMET", 100.0),
    Metric("comet_on_target", "COMET, off-target outputs as 0", 100.0),
    Metric("exact_match", "exact match %"),
    Metric("f1", "F1 %"),
    Metric("judge_accuracy", "accuracy by judges %"),
    Metric("accuracy", "accuracy %"),
)
FURTHER = (
    Metric("insertions", "insertions %", lower=True),
    Metric("deletions", "deletions %", lower=True),
    Metric("substitutions", "substitutions %", lower=True),
    Metric("relative_mse", "relative MSE", 1.0, 4, lower=True),
    Metric("entity_recall", "entity recall %"),
    Metric("entity_wer", "entity WER %", lower=True),
)
FAILURES = (
    Metric("target_language_rate", "in the target language %"),
    Metric("english_rate", "in English %", lower=None),
    Metric("language_detector_error", "language detector's error on the references %", lower=True),
    Metric("repetition_rate", "repetition %", lower=True),
    Metric("stopped_by_length_rate", "stopped by length %", lower=True),
    Metric("compression_rate", "compression above 2.4 %", lower=True),
    Metric("refusal_rate", "refusals %", lower=True),
    Metric("instruction_following_rate", "instruction followed %"),
)


def present(evaluations: Iterable[Evaluation], metrics: Sequence[Metric]) -> list[Metric]:
    """Those of the metrics that at least one evaluation has, or says why it has not."""
    found = list(evaluations)
    return [each for each in metrics if any(shown(run.metrics, each).text != ABSENT for run in found)]


def shown(values: Mapping[str, Any], metric: Metric) -> Cell:
    """A metric of any mapping like metrics.json, with its interval where that is known."""
    value = number(values, metric.key)
    if value is None:
        reason = values.get(metric.key)
        if isinstance(reason, str) and reason.startswith(NOT_MEASURED):
            return Cell(NOT_MEASURED, reason.removeprefix(NOT_MEASURED).lstrip(": "))
        return Cell(ABSENT)
    text = written(value, metric)
    bounds = interval(values, metric.key)
    return Cell(f"{text} [{written(bounds[0], metric)}, {written(bounds[1], metric)}]" if bounds else text)


def written(value: float, metric: Metric) -> str:
    """A value as text, without unit."""
    return f"{scaled(value, metric):.{metric.digits}f}"


def scaled(value: float, metric: Metric) -> float:
    """A value in the unit it is shown in. COMET's own package gives a fraction, papers that times 100."""
    return value if metric.key.startswith("comet") and abs(value) > 1.5 else value * metric.factor
