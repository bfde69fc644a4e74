"""Metrics by column and by frequency of entities."""

from __future__ import annotations

from speechmapper.eval.report.breakdowns import MOST_VALUES, by_column, by_entry
from speechmapper.eval.report.tables import ABSENT
from tests.speechmapper.eval.report.made import evaluation


def texts(table):
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_a_table_per_column_with_the_worst_first():
    one = {"by": {"speaker": {"s1": {"wer": 0.1, "utterances": 3}, "s2": {"wer": 0.3, "wer_ci95": [0.2, 0.4]}}}}
    two = {"by": {"speaker": {"s1": {"wer": 0.2, "utterances": 3}}}}
    runs = [evaluation("a", metrics={"wer": 0.2, **one}), evaluation("b", metrics={"wer": 0.2, **two})]
    (table,) = by_column(runs)
    assert table.title == "asr: WER % by speaker"
    assert [column.label for column in table.columns] == ["speaker", "utterances", "a", "b"]
    assert texts(table) == [["s2", ABSENT, "30.00 [20.00, 40.00]", ABSENT], ["s1", "3", "10.00", "20.00"]]


def test_languages_of_older_evaluations():
    metrics = {"bleu": 10.0, "by_language": {"de": {"bleu": 12.0, "utterances": 1}, "es": {"bleu": 8.0}}}
    (table,) = by_column([evaluation("a", about={"task": "st"}, metrics=metrics)])
    assert table.title == "st: BLEU by language"
    assert [row[0] for row in texts(table)] == ["es", "de"]


def test_many_values_are_cut_to_the_worst():
    groups = {f"s{number:03d}": {"wer": number / 1000} for number in range(MOST_VALUES + 10)}
    (table,) = by_column([evaluation("a", metrics={"wer": 0.1, "by": {"speaker": groups}})])
    assert len(table.rows) == MOST_VALUES and texts(table)[0][0] == f"s{MOST_VALUES + 9:03d}"
    assert table.notes == [f"The worst {MOST_VALUES} of {MOST_VALUES + 10} values."]


def test_nothing_and_nonsense():
    for by in (None, 3, [], {"speaker": 3}, {"speaker": {"s": 3}}, {"speaker": {"s": {}}}):
        assert by_column([evaluation(metrics={"wer": 0.1, "by": by})]) == []
    assert by_column([evaluation()]) == []
    for entries in (None, 3, [], {"0": 3}, {"0": {}}, {"0": {"words": "many", "recall": None}}):
        assert by_entry([evaluation(metrics={"entities": entries, "judges": entries})]) == []
    assert by_entry([evaluation()]) == []


def test_values_without_the_metric_come_last():
    groups = {"a": {"utterances": 1}, "b": {"wer": 0.1}}
    (table,) = by_column([evaluation(metrics={"wer": 0.1, "by": {"speaker": groups}})])
    assert [row[0] for row in texts(table)] == ["b", "a"]


def test_entities_by_how_often_they_were_trained():
    buckets = {"0": {"entity_recall": 0.1, "words": 1200}, "1-9": {"entity_recall": 0.52, "words": 30, "note": "x"}}
    (table,) = by_entry([evaluation("a", metrics={"entities": buckets}), evaluation("b")])
    assert [column.label for column in table.columns] == ["run", "measure", "0", "1-9"]
    assert texts(table) == [["a", "recall %", "10.00", "52.00"], ["a", "words", "1,200", "30"]]


def test_judges_and_wordings():
    judges = {"one": {"accuracy": 0.5, "gold": 0.984}, "two": {"accuracy": 0.625}}
    wordings = {"wer": {"mean": 0.25, "sd": 0.125}}
    first, second = by_entry([evaluation("a", metrics={"judges": judges, "wordings": wordings})])
    assert first.title == "Answers by judge"
    assert texts(first) == [["a", "accuracy", "0.50", "0.62"], ["a", "gold", "0.98", ABSENT]]
    assert second.title == "Metrics over several wordings of the instruction"
    assert texts(second) == [["a", "mean", "0.25"], ["a", "sd", "0.12"]]
