"""The page, the files and the table of a threshold, from a result worked out by hand."""

from __future__ import annotations

import json
import re

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.eet.page import in_words, print_curve, render, write_report
from speechmapper.measure.threshold import read_threshold

THRESHOLD = {"relative_mse": 0.0714, "mse": 0.00131, "last_passing": 0.05, "first_failing": 0.1}


def level(relative_mse: float, *wers: float) -> dict:
    mean = sum(wers) / len(wers)
    return {
        "relative_mse": relative_mse,
        "mse": relative_mse * 0.0184,
        "wer": mean,
        "wer_by_seed": list(wers),
        "nearest_token_accuracy": 0.987,
    }


LEVELS = [level(0.0, 0.02, 0.02), level(0.05, 0.02, 0.03), level(0.1, 0.31, 0.55)]
RESULT = {
    "threshold": {"kind": "gaussian", **THRESHOLD},
    "wer_without_noise": 0.02,
    "wer_limit": 0.03,
    "kinds": {kind: {"levels": LEVELS, "threshold": THRESHOLD} for kind in ("gaussian", "mix")},
    "seeds": [0, 1],
    "llm": {"id": "tiny", "revision": None, "dtype": "float32"},
    "device": "cpu",
    "table_sha256": "ab" * 32,
    "table_scale": 0.0184,
    "prompt": "<<<speech>>>",
    "texts": {"count": 4, "available": 9, "source": "demo", "tokens": 17, "sha256": "cd" * 32},
    "normalizer": "mms-1",
    "versions": {"torch": "2"},
}


def test_the_page_stands_alone_and_escapes_what_it_is_given():
    page = render({**RESULT, "llm": {**RESULT["llm"], "id": "<script>alert(1)</script>"}})
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"https?://|@import|src=", page)
    assert page.count("<svg") == 1
    assert "0.0714" in page and "43.0 %" in page and "98.7 %" in page


def test_the_threshold_in_words_and_a_lower_bound_is_called_one():
    assert in_words(RESULT) == (
        "threshold: relative MSE 0.0714 (0.00131 per dimension), between 0.05 and 0.1, by gaussian noise"
    )
    none_failed = {**RESULT, "threshold": {**RESULT["threshold"], "first_failing": None}}
    assert "at least relative MSE 0.0714" in in_words(none_failed)


def test_files_are_replaced_and_the_same_result_gives_the_same_bytes(tmp_path):
    (tmp_path / "eet.html").write_text("old")
    write_report(tmp_path, RESULT)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert json.loads(first["eet.json"]) == RESULT
    assert read_threshold(tmp_path).relative_mse == 0.0714
    write_report(tmp_path, RESULT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out .*: cannot be written"):
        write_report(tmp_path / "file", RESULT)


def test_the_table_on_the_terminal_has_every_level(capsys):
    print_curve(RESULT)
    shown = capsys.readouterr().out
    assert shown.count("43.0%") == 2 and "31.0 to 55.0%" in shown
    assert "WER of 4 texts repeated by tiny" in shown and in_words(RESULT) in shown
