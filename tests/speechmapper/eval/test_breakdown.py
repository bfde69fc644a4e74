"""Metrics of parts: by field, by language, by wording."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.breakdown import breakdown, by_language, parse_columns, rows_by, wording_spread

LINES = [{"speaker": "ann"}, {"speaker": "bob", "language": "de"}, {"speaker": "ann"}, {"language": "fr"}]


def rows(numbers: np.ndarray) -> dict[str, list[int]]:
    return {"rows": numbers.tolist()}


def test_rows_by_value_and_those_without_one_apart():
    found = rows_by(LINES, "speaker")
    assert {value: each.tolist() for value, each in found.items()} == {"ann": [0, 2], "bob": [1], "unknown": [3]}


def test_by_each_field_that_is_named():
    assert breakdown(LINES, (), rows) == {}
    found = breakdown(LINES, ("speaker", "language"), rows)["by"]
    assert list(found) == ["speaker", "language"]
    assert found["speaker"]["ann"] == {"rows": [0, 2]}
    assert found["language"]["unknown"] == {"rows": [0, 2]}
    with pytest.raises(ConfigError, match=r"--by 'dialect': no prediction has it; there are language, speaker"):
        breakdown(LINES, ("dialect",), rows)


def test_by_language_where_there_are_several():
    assert by_language(LINES, rows) == {"by_language": {"de": {"rows": [1]}, "fr": {"rows": [3]}}}
    assert by_language(LINES[:3], rows) == {}


def test_columns_are_separated_by_commas():
    assert parse_columns(" speaker, lang,,speaker") == ("speaker", "lang")
    assert parse_columns(None) == ()


def test_the_spread_over_wordings():
    lines = [{"wording": 0}, {"wording": 1}, {"wording": 2}, {"wording": 1}]
    wer = {(0,): 0.1, (1, 3): 0.2, (2,): 0.6}

    def figures(numbers: np.ndarray) -> dict[str, float | None]:
        return {"wer": wer[tuple(numbers.tolist())], "cer": None}

    found = wording_spread(lines, ["wer", "cer"], figures)["wordings"]
    assert found == {"wer": {"mean": pytest.approx(0.3), "sd": pytest.approx(0.07**0.5), "min": 0.1, "max": 0.6}}
    assert wording_spread(lines[:1], ["wer"], figures) == {}
    assert wording_spread([{}, {}], ["wer"], figures) == {}
