"""Published results, and which runs stand beside them."""

from __future__ import annotations

import re

import pytest

from speechmapper.eval.report.published import belongs, beside_published, published_tables
from speechmapper.eval.report.shown_metrics import MAIN
from speechmapper.eval.report.tables import ABSENT
from tests.speechmapper.eval.report.made import evaluation, line

TABLES = {table["title"]: table for table in published_tables()}
CLEAN = {"corpus": "librispeech-clean", "lang": "en"}


def lines(count, output, **more):
    return [line("the dog ran off", output, id=f"{more['corpus']}-{number}", **more) for number in range(count)]


def own_rows(table):
    return [[cell.text for cell in row.cells] for row in table.rows if row.own]


@pytest.mark.parametrize("table", published_tables(), ids=lambda table: table["title"])
def test_the_data_are_whole(table):
    assert table["metric"] in {metric.key for metric in MAIN}
    assert table["task"] in ("asr", "st", "sqa")
    for row in table["rows"]:
        assert len(row["values"]) == len(table["columns"])
        assert re.fullmatch(r"\d{4}\.\d{5}", row["source"])
        assert all(value is None or 0 < value < 100 for value in row["values"])
    assert all({"label", "corpus"} <= column.keys() for column in table["columns"])
    assert len({row["system"] for row in table["rows"]}) == len(table["rows"])


def test_figures_of_the_paper():
    comet = {row["system"]: row["values"] for row in TABLES["Speech translation, COMET"]["rows"]}
    assert comet["SpeechMapper Llama, ST CE"] == [84.5, 82.4, 80.9, 84.5, 75.5, 78.6]
    wer = {row["system"]: row["values"] for row in TABLES["Speech recognition, WER %"]["rows"]}
    assert wer["SpeechMapper Llama, stage 2"] == [4.9, 7.8, 14.8, 16.6]


@pytest.mark.parametrize(
    ("found", "column", "expected"),
    [
        ({"corpus": "fleurs", "lang": "en"}, {"corpus": "fleurs", "lang": "en"}, True),
        ({"corpus": "fleurs", "lang": "en-US"}, {"corpus": "fleurs", "lang": "en"}, True),
        ({"corpus": "fleurs"}, {"corpus": "fleurs", "lang": "en"}, True),
        ({"corpus": "fleurs", "lang": "de"}, {"corpus": "fleurs", "lang": "en"}, False),
        ({"corpus": "mls", "lang": "en"}, {"corpus": "fleurs", "lang": "en"}, False),
        ({}, {"corpus": "fleurs"}, False),
        ({"corpus": "c", "language": "zh-CN"}, {"corpus": "c", "language": "zh"}, True),
        ({"corpus": "c"}, {"corpus": "c", "language": "zh"}, False),
        ({"corpus": "c", "language": 3}, {"corpus": "c", "language": "zh"}, False),
        ({"corpus": "librisqa", "id": "I/1"}, {"corpus": "librisqa", "id": "I/"}, True),
        ({"corpus": "librisqa", "id": "II/1"}, {"corpus": "librisqa", "id": "I/"}, False),
    ],
)
def test_which_column_a_prediction_is_of(found, column, expected):
    assert belongs(found, column) is expected


def test_a_run_of_one_test_set_shows_its_own_metric():
    run = evaluation("mine", lines(2, "x", **CLEAN), {"task": "asr", "split": "test"}, {"wer": 0.05})
    (table,) = beside_published([run])
    assert own_rows(table) == [["mine", "this report", "5.00", ABSENT, ABSENT, ABSENT]]
    assert "2607.01960" in table.notes[0] and len(table.notes) == 1


def test_a_run_of_several_test_sets_shows_each():
    mixed = [*lines(1, "the dog ran", **CLEAN), *lines(3, "the dog ran off", corpus="librispeech-other", lang="en")]
    about = {"task": "asr", "split": "test"}
    (table,) = beside_published([evaluation("mine", mixed, about, {"wer": 0.1, "normalizer": "mms-2"})])
    assert own_rows(table) == [["mine", "this report", "25.00", "0.00", ABSENT, ABSENT]]
    by = {"corpus": {"librispeech-clean": {"wer": 0.07, "wer_ci95": [0.06, 0.08]}, "librispeech-other": {"wer": 0.08}}}
    (table,) = beside_published([evaluation("mine", mixed, about, {"wer": 0.1, "by": by})])
    assert own_rows(table)[0][2:4] == ["7.00 [6.00, 8.00]", "8.00"]


def test_comet_by_language_and_what_cannot_be_told_apart():
    two = [*lines(1, "x", corpus="europarl-st", language="de"), *lines(1, "x", corpus="europarl-st", language="es")]
    about = {"task": "st", "split": "test"}
    metrics = {"comet": 0.8, "by_language": {"de": {"comet": 0.7}, "es": {"comet": 0.75}}}
    table = beside_published([evaluation("mine", two, about, metrics)])[0]
    assert own_rows(table)[0][2:] == ["75.00", ABSENT, "70.00", ABSENT, ABSENT, ABSENT]
    table = beside_published([evaluation("mine", two, about, {"comet": 0.8})])[0]
    assert own_rows(table)[0][2:] == [ABSENT] * 6
    assert any("several test sets at once" in note for note in table.all_notes())


def test_a_language_group_over_two_corpora_is_not_one_test_set():
    two = [
        *lines(1, "x", corpus="europarl-st", language="de"),
        *lines(1, "x", corpus="covost2", language="de"),
        *lines(1, "x", corpus="covost2", language="zh"),
    ]
    metrics = {"comet": 0.8, "by_language": {"de": {"comet": 0.7}, "zh": {"comet": 0.6}}}
    table = beside_published([evaluation("mine", two, {"task": "st"}, metrics)])[0]
    assert own_rows(table)[0][2:] == [ABSENT] * 5 + ["60.00"]


@pytest.mark.parametrize("more", [{"split": "dev"}, {"condition": "noise=0dB"}])
def test_other_splits_and_worse_audio_are_not_compared(more):
    run = evaluation("mine", lines(2, "x", **CLEAN), {"task": "asr", **more}, {"wer": 0.05})
    (table,) = beside_published([run])
    assert own_rows(table) == []
    assert "No run of this report" in table.notes[-1]


def test_only_tables_of_the_tasks_that_were_evaluated():
    titles = [table.title for table in beside_published([evaluation(about={"task": "st"}, metrics={})])]
    assert titles == ["Speech translation, COMET", "Speech translation, BLEU"]
    assert beside_published([evaluation(about={"task": "mine"}, metrics={})]) == []
