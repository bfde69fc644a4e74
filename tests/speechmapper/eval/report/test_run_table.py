"""The table of the runs."""

from __future__ import annotations

from speechmapper.eval.report.run_table import identity_of, run_table
from speechmapper.eval.report.tables import ABSENT
from tests.speechmapper.eval.report.made import evaluation

FULL = {"task": "asr", "readout": "generation", "llm": "small", "head": "rows", "split": "test"}


def texts(row):
    return [cell.text for cell in row.cells]


def test_settings_and_metrics_with_intervals():
    runs = [
        evaluation("a", about=FULL, metrics={"wer": 0.02, "wer_ci95": [0.01, 0.03], "utterances": 1200}),
        evaluation("b", about={**FULL, "llm": None, "split": None}, metrics={"wer": 0.03, "cer": 0.01}),
    ]
    table = run_table(runs)
    heads = ["run", "task", "readout", "LLM", "head", "split", "utterances", "WER %", "CER %"]
    assert [column.label for column in table.columns] == heads
    one = ["a", "asr", "generation", "small", "rows", "test", "1,200", "2.00 [1.00, 3.00]", ABSENT]
    assert texts(table.rows[0]) == one
    assert texts(table.rows[1]) == ["b", "asr", "generation", "none", "rows", ABSENT, "3", "3.00", "1.00"]
    assert table.notes == ["In brackets: 95 % intervals."]


def test_nothing_recorded_is_dashes():
    table = run_table([evaluation("a", about={}, metrics={})])
    assert texts(table.rows[0]) == ["a", "asr", *[ABSENT] * 4, "3"]
    assert table.notes == []


def test_a_condition_has_a_column_of_its_own():
    runs = [evaluation("a", about=FULL), evaluation("b", about={**FULL, "condition": {"degrade": "noise=10dB"}})]
    table = run_table(runs)
    place = [column.label for column in table.columns].index("condition")
    assert [row.cells[place].text for row in table.rows] == ["as recorded", "noise=10dB"]


def test_why_a_metric_is_not_there():
    table = run_table([evaluation("a", metrics={"comet": "not measured: no weights"})])
    assert table.all_notes() == ["a, COMET: not measured: no weights"]


def test_what_made_them():
    assert identity_of(evaluation(about={"llm": None, "run": {"layer": 24}})) == {"llm": "none", "run.layer": "24"}
