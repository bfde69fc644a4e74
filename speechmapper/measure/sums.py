"""Metrics of a corpus that follow from sums over its utterances, with bootstrap intervals.

    edits and words of each utterance    [[1, 4], [0, 2], [2, 3]]
      -> summed over the corpus          [3, 9]       WER 0.333
      -> summed over a resample          [5, 10]      WER 0.5: utterances drawn with replacement, as many as there are
      -> the middle 95 % of many resamples            wer_ci95

What an utterance contributes is counted once; the whole corpus, its parts (`--by speaker`), intervals and paired tests
are sums of the same rows.

Shapes: N utterances, K statistics of one, R resamples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000
SEED = 12345  # sacrebleu's default
TAILS = (2.5, 97.5)  # percentiles
DRAWN_TOGETHER = 2_000_000  # positions of resamples in memory


@dataclass(frozen=True, slots=True)
class Sums:
    """One metric.

    Attributes:
        stats_NK: what each utterance adds.
        of_sums: the metric of summed statistics, (R, K) -> (R,); not a number where there is nothing to measure.
        lower_is_better: True for error rates.
    """

    stats_NK: np.ndarray
    of_sums: Callable[[np.ndarray], np.ndarray]
    lower_is_better: bool = False

    def value(self, rows: np.ndarray) -> float | None:
        """The metric of these utterances; None where there is nothing to measure."""
        found = float(self.of_sums(self.stats_NK[rows].sum(axis=0, keepdims=True))[0])
        return None if np.isnan(found) else found


class ScoredLines(ABC):
    """What a score has counted for each of N predictions."""

    @abstractmethod
    def sums(self) -> Mapping[str, Sums]:
        """Its metrics by their names in metrics.json."""

    @abstractmethod
    def beside(self, rows: np.ndarray) -> dict[str, Any]:
        """What stands beside the metrics of these predictions: counts, normaliser, signatures."""

    def details(self, rows: np.ndarray) -> dict[str, Any]:
        """More figures of these predictions, for metrics.json alone."""
        return {}

    def __len__(self) -> int:
        return max((len(each.stats_NK) for each in self.sums().values()), default=0)

    def figures(self, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The metrics of these predictions (None: of all), each None where there is nothing to measure."""
        chosen = np.arange(len(self)) if rows is None else rows
        return {**{name: each.value(chosen) for name, each in self.sums().items()}, **self.beside(chosen)}

    def intervals(self, rows: np.ndarray) -> dict[str, list[float]]:
        """`NAME_ci95` of each metric that has one."""
        found = {name: interval(values_R) for name, values_R in resampled(self.sums(), rows).items()}
        return {f"{name}_ci95": ends for name, ends in found.items() if ends is not None and len(rows) > 1}


def resampled(metrics: Mapping[str, Sums], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric of each resample of these utterances (R,): the same resamples for all of them."""
    if not metrics:
        return {}
    stats = {name: each.stats_NK[rows].astype(np.float64) for name, each in metrics.items()}
    together_NK = np.concatenate([*stats.values()], axis=1)
    sums_RK = np.concatenate([weights @ together_NK for weights in resample_weights(len(rows))])
    ends = np.cumsum([each.shape[1] for each in stats.values()])[:-1]
    parts = zip(metrics.items(), np.split(sums_RK, ends, axis=1), strict=True)
    return {name: metric.of_sums(part) for (name, metric), part in parts}


def interval(values_R: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval of a metric's resamples, `[low, high]`; None where it is a number in none."""
    values = values_R[~np.isnan(values_R)]
    return [float(end) for end in np.percentile(values, TAILS)] if len(values) else None


def ratio(sums_RK: np.ndarray) -> np.ndarray:
    """First statistic over the second (R,); not a number over nothing."""
    top_R, bottom_R = sums_RK[:, 0], sums_RK[:, 1]
    return np.where(bottom_R > 0, top_R / np.where(bottom_R > 0, bottom_R, 1), np.nan)


def resample_weights(count: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """How often each of `count` utterances is drawn in each resample: blocks (some of R, N), float64.

    Same count, same draws: that pairs two systems on the same utterances.
    """
    rng = np.random.default_rng(seed)
    together = max(1, DRAWN_TOGETHER // max(1, count))
    for start in range(0, resamples, together):
        rows = min(together, resamples - start)
        drawn = rng.integers(count, size=(rows, count), dtype=np.int32)
        drawn += np.arange(0, rows * count, max(1, count), dtype=np.int32)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def share_of(values_N: np.ndarray, rows: np.ndarray, applies_N: np.ndarray | None = None) -> float | None:
    """The mean of some utterances' values, over those that it applies to (None: all); None where there are none."""
    chosen = rows if applies_N is None else rows[applies_N[rows]]
    return float(values_N[chosen].mean()) if len(chosen) else None


def present(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that there are: not None."""
    return {name: value for name, value in figures.items() if value is not None}
