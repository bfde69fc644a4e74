"""Metrics as they are written."""

from __future__ import annotations

import pytest

from speechmapper.eval.report.shown_metrics import FAILURES, FURTHER, MAIN, present, shown, written
from speechmapper.eval.report.tables import ABSENT, Cell
from tests.speechmapper.eval.report.made import evaluation

BY_KEY = {metric.key: metric for metric in (*MAIN, *FURTHER, *FAILURES)}


@pytest.mark.parametrize(
    ("key", "metrics", "expected"),
    [
        ("wer", {"wer": 0.0230263}, Cell("2.30")),
        ("wer", {"wer": 0.023, "wer_ci95": [0.0185, 0.0281]}, Cell("2.30 [1.85, 2.81]")),
        ("wer", {"wer": 0.023, "wer_ci95": "wide"}, Cell("2.30")),
        ("bleu", {"bleu": 19.97}, Cell("19.97")),
        ("comet", {"comet": 0.8144}, Cell("81.44")),
        ("comet", {"comet": 81.44, "comet_ci95": [80.0, 82.0]}, Cell("81.44 [80.00, 82.00]")),
        ("comet", {"comet": "not measured: no uv"}, Cell("not measured", "no uv")),
        ("comet", {"comet": "0.8"}, Cell(ABSENT)),
        ("comet", {}, Cell(ABSENT)),
        ("wer", {"wer": None}, Cell(ABSENT)),
        ("relative_mse", {"relative_mse": 0.00554}, Cell("0.0055")),
    ],
)
def test_a_metric_with_its_interval_or_why_it_is_not_there(key, metrics, expected):
    assert shown(metrics, BY_KEY[key]) == expected


def test_columns_are_those_that_any_run_has():
    runs = [evaluation(metrics={"wer": 0.5}), evaluation(metrics={"bleu": 3.0, "comet": "not measured: why"})]
    assert [metric.key for metric in present(runs, MAIN)] == ["wer", "bleu", "comet"]
    assert present([evaluation(metrics={})], MAIN) == []


def test_keys_are_unique():
    assert len(BY_KEY) == len(MAIN) + len(FURTHER) + len(FAILURES)
    assert written(0.5, BY_KEY["wer"]) == "50.00"
