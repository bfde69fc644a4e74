"""The table of a sweep: a row per run, within 100 columns, and one object for programs."""

from __future__ import annotations

import json
import re

import pytest

from speechmapper.train.sweep_table import print_rows


def lines_of(printed: str) -> list[str]:
    """Without the codes of a terminal."""
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in printed.splitlines()]


def rows(count: int, **more):
    return [
        {
            "run": f"name-mse+cosine_lr-0.0001_seed-{number}",
            "step": 900,
            "ended": "done",
            "figures": {"loss": 1.0, "dev_wer": 0.1234567, "dev_relative_mse": 0.9, **more},
            "seconds": 1234.5,
            "parameters": 277_031_936,
        }
        for number in range(count)
    ]


def test_a_program_reads_one_object(tmp_path, capsys):
    print_rows([{"run": "alpha-5", "figures": {}}], tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path),
        "runs": [{"run": "alpha-5", "figures": {}}],
    }


@pytest.mark.parametrize("count", [6, 12])
def test_a_row_is_one_line_of_a_terminal_of_100_columns(tmp_path, capsys, monkeypatch, count):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_rows(rows(count), tmp_path, as_json=False)
    lines = lines_of(capsys.readouterr().out)
    assert len(lines) == count + 3  # the heading, its rule, the file
    assert max(map(len, lines[:-1])) <= 100
    assert lines[0].split() == ["run", "steps", "dev_wer", "dev_relative_mse", "parameters", "seconds"]
    assert lines[2].split() == ["name-mse+cosine_lr-0.0001_seed-0", "900", "0.1235", "0.9", "277,031,936", "1234"]


def test_every_figure_of_the_table_fits_where_names_fold(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_rows(rows(2, dev_llm_wer=0.02, dev_eet_ratio=1.5), tmp_path, as_json=False)
    lines = lines_of(capsys.readouterr().out)
    assert lines[2].split()[1:] == ["900", "0.1235", "0.02", "0.9", "1.5", "277,031,936", "1234"]
    assert max(map(len, lines[:-1])) <= 100


def test_a_pipe_gets_whole_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_rows(rows(1, dev_llm_wer=0.02), tmp_path, as_json=False)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_a_figure_that_is_missing_is_blank_and_an_early_end_is_told(tmp_path, capsys):
    first, second = rows(2)
    first["figures"] = {"dev_wer": None}
    second["ended"] = "below the LLM's embedding error threshold, 0.114"
    print_rows([first, second], tmp_path, as_json=False)
    heading, _, one, two, _ = capsys.readouterr().out.splitlines()
    assert heading.split()[-1] == "ended" and one.split()[-1] == "done" and "0.114" in two
    assert one.split()[1:] == ["900", "277,031,936", "1234", "done"]


def test_other_tasks_and_wordings_have_a_column_for_their_first_score(tmp_path, capsys):
    figures = {
        **{"dev_cer": 0.1, "dev_task_sqa_exact_match": 0.5, "dev_task_sqa_f1": 0.6, "dev_unseen_wording_wer": 0.2},
        **{"dev_unseen_wording_cer": 0.1, "dev_unseen_task_st_de_bleu": 20.0, "dev_unseen_task_st_de_chrf": 30.0},
    }
    print_rows(rows(2, **figures), tmp_path, as_json=False)
    assert lines_of(capsys.readouterr().out)[0].split() == [
        *("run", "steps", "dev_wer", "dev_task_sqa_exact_match", "dev_unseen_wording_wer"),
        *("dev_unseen_task_st_de_bleu", "dev_relative_mse", "parameters", "seconds"),
    ]
