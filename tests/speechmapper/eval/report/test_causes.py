"""What goes wrong, counted on lines that were made wrong by hand."""

from __future__ import annotations

import pytest

from speechmapper.eval.report.causes import EXAMPLES, cause_table, causes
from speechmapper.eval.report.lines import measured_lines
from tests.speechmapper.eval.report.made import evaluation, line

RIGHT = "they met in the old town of Oslo"
LOOP = "the dog ran and " * 20
WRONG = {
    "repeats itself": line(RIGHT, LOOP),
    "empty": line(RIGHT, " \n"),
    "less than half as long": line(RIGHT, "they met"),
    "more than twice as long": line(
        RIGHT, "Norway has many old towns and some of them are by the sea, but this one is not"
    ),
}


def counted(lines, **metrics):
    run = evaluation(lines=lines, metrics={"wer": 0.1, **metrics})
    return {cause.name: cause for cause in causes(run, measured_lines(run))}


@pytest.mark.parametrize("name", WRONG)
def test_each_cause_is_noticed(name):
    found = counted([line(RIGHT, RIGHT), WRONG[name]])
    assert (found[name].count, found[name].share) == (1, 0.5)
    if name != "repeats itself":  # which is too long as well
        assert sum(cause.count for cause in found.values()) == 1
    assert [example.prediction for example in found[name].examples] == [WRONG[name]]


def test_right_outputs_have_no_cause():
    repeating = "no no no no no no no no no no no no"
    lines = [line(RIGHT, RIGHT), line(repeating, repeating), line("yes", "no"), line("", "")]
    assert {name: cause.count for name, cause in counted(lines).items() if cause.count} == {"empty": 1}


def test_stops_are_counted_where_they_are_recorded():
    assert "stopped by length" not in counted([line(RIGHT, RIGHT)])
    found = counted([line(RIGHT, RIGHT, stop="end"), line(RIGHT, RIGHT, stop="length")])
    assert found["stopped by length"].count == 1


def test_what_needs_a_detector_is_taken_from_the_metrics():
    found = counted([line(RIGHT, RIGHT)] * 10, target_language_rate=0.8, english_rate=0.1, refusal_rate=0.3)
    assert {name: (each.count, round(each.share, 2)) for name, each in found.items() if each.count} == {
        "not in the target language": (2, 0.2),
        "in English": (1, 0.1),
        "refusal": (3, 0.3),
    }


def test_few_examples_and_each_output_once():
    found = counted(
        [line(RIGHT, LOOP, stop="length")] * 2 + [line(RIGHT, LOOP, stop="length", id=str(n)) for n in range(9)]
    )
    shown = [id(each) for cause in found.values() for each in cause.examples]
    assert len(shown) == len(set(shown)) and all(len(cause.examples) <= EXAMPLES for cause in found.values())
    assert found["stopped by length"].count == 11


def test_the_table_has_a_row_per_run():
    runs = [evaluation("a", [WRONG["empty"]], metrics={}), evaluation("b", metrics={"refusal_rate": 0.0})]
    table = cause_table([(run, causes(run, measured_lines(run))) for run in runs])
    heads = [column.label for column in table.columns]
    assert heads[:2] == ["run", "outputs"] and "empty" in heads and heads[-1] == "refusal"
    cells = [dict(zip(heads, [cell.text for cell in row.cells], strict=True)) for row in table.rows]
    assert (cells[0]["empty"], cells[0]["refusal"]) == ("1 (100.0 %)", "\u2013")
    assert (cells[1]["run"], cells[1]["outputs"], cells[1]["refusal"]) == ("b", "3", "0 (0.0 %)")
