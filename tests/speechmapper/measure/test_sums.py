"""Metrics from sums: parts, intervals and resamples."""

from __future__ import annotations

import numpy as np
import pytest

from speechmapper.measure import sums
from speechmapper.measure.sums import Sums, interval, ratio, resample_weights, resampled
from speechmapper.measure.word_errors import WordErrors

STATS_NK = np.array([[1, 4], [0, 2], [2, 3], [0, 0]])
WER = Sums(STATS_NK, ratio, True)


def test_the_metric_is_of_the_sums_not_a_mean_of_ratios():
    assert WER.value(np.arange(4)) == pytest.approx(3 / 9)
    assert WER.value(np.array([1, 2])) == pytest.approx(2 / 5)
    assert WER.value(np.array([3])) is None
    assert WER.value(np.array([], np.int64)) is None


def test_resamples_draw_as_many_utterances_as_there_are_the_same_each_time(monkeypatch):
    weights = np.concatenate(list(resample_weights(5, 40)))
    assert weights.shape == (40, 5)
    assert (weights.sum(axis=1) == 5).all()
    assert len(np.unique(weights, axis=0)) > 30
    assert (np.concatenate(list(resample_weights(5, 40))) == weights).all()
    monkeypatch.setattr(sums, "DRAWN_TOGETHER", 15)  # in blocks: the same draws
    assert (np.concatenate(list(resample_weights(5, 40))) == weights).all()


def test_an_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(3)
    stats = np.stack([rng.integers(0, 4, 60), rng.integers(5, 20, 60)], axis=1)
    low, high = interval(resampled({"wer": Sums(stats, ratio)}, np.arange(60))["wer"])
    values = []
    for draw in range(4000):
        drawn = stats[np.random.default_rng(draw).integers(60, size=60)].sum(axis=0)
        values.append(drawn[0] / drawn[1])
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), rel=0.03)
    assert low < stats[:, 0].sum() / stats[:, 1].sum() < high


def test_an_interval_covers_the_true_rate_as_often_as_it_says():
    rng, covered = np.random.default_rng(11), 0
    for _ in range(150):
        stats = np.stack([rng.binomial(20, 0.1, 80), np.full(80, 20)], axis=1)
        low, high = interval(resampled({"wer": Sums(stats, ratio)}, np.arange(80))["wer"])
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 150 <= 0.99


def test_metrics_share_their_resamples():
    rng = np.random.default_rng(3)
    stats = rng.integers(1, 20, (50, 2))
    both = resampled({"one": Sums(stats, ratio), "two": Sums(stats * [2, 1], ratio)}, np.arange(50))
    assert both["two"] == pytest.approx(2 * both["one"])
    assert len(both["one"]) == 1000


def test_no_metrics_have_no_resamples():
    assert resampled({}, np.arange(3)) == {}


def test_what_is_never_measured_has_no_interval():
    found = resampled({"wer": Sums(np.zeros((3, 2)), ratio)}, np.arange(3))
    assert interval(found["wer"]) is None
    assert WordErrors.of(["a b"], ["a c"], "none").intervals(np.array([0])) == {}  # one utterance says nothing
    assert WordErrors.of(["a b", "a"], ["a c", "a"], "none").intervals(np.arange(2)).keys() == {"wer_ci95", "cer_ci95"}
