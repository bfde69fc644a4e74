"""What command lines share: exit codes, one-line errors, progress off and on a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sm_pipeline import console
from sm_pipeline.signals import Stopped
from sm_store.errors import ConfigError, RunFailed, StoreBusy
from sm_store.version import __version__


def raising(error: BaseException):
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("--x 1: give 2"), 2, "error: --x 1: give 2"),
        (StoreBusy("s: shard 1 is being written"), 2, "error: s: shard 1 is being written"),
        (RunFailed("all\n  rejected"), 1, "error: all rejected"),
        (OSError(28, "No space left on device", "/s/x"), 1, "error: /s/x: No space left on device"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; run the same command again to continue"),
        (Stopped(15), 143, "stopped by SIGTERM; run the same command again to continue"),
    ],
)
def test_errors_become_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as left:
        console.run(raising(error))
    out, err = capsys.readouterr()
    assert (left.value.code, out, err) == (code, "", line + "\n")


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        console.run(raising(ZeroDivisionError()))


def test_success_is_silent(capsys):
    console.run(lambda: None)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_every_ten_seconds(clock):
    out = io.StringIO()
    with console.progress(100, "extract", "utterances", out) as shown:
        for step in range(60):
            clock[0] = 1000 + step
            shown.advance(1, rejected=step, loss=0.123456)
    lines = out.getvalue().splitlines()
    assert len(lines) == 6  # after 1, 11, 21, 31, 41, 51 seconds
    assert lines[1] == "extract: 12/100 utterances (12%), 81 s left, rejected=11, loss=0.1235"


def test_short_work_is_silent(clock):
    out = io.StringIO()
    with console.progress(3, "extract", "shards", out) as shown:
        for _ in range(3):
            clock[0] += 0.3
            shown.advance()
    assert out.getvalue() == ""


def test_no_work_at_all(clock):
    out = io.StringIO()
    with console.progress(0, "headers", "files", out) as shown:
        clock[0] += 5
        shown.advance(0)
    assert "100%" in out.getvalue()


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with console.progress(4, "extract", "shards", out) as shown:
        shown.advance(3, rejected=2)
        shown.advance(1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "extract" in text
    assert "4/4 shards" in text
    assert "rejected=2" in text


class Figures:
    def to_json(self):
        return {"path": Path("x"), "name": "é"}

    def in_words(self):
        return "one line"


def test_a_report_as_text_or_as_one_json_object(capsys):
    console.print_report(Figures(), as_json=False)
    assert capsys.readouterr().out == "one line\n"
    console.print_report(Figures(), as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "x", "name": "é"} and "é" in out


def test_an_app_of_ours_prints_its_name_and_version_and_wants_a_command():
    app = console.new_app("sm-some", "What it does.")
    app.command("go")(lambda: None)
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"sm-some {__version__}\n")
    assert "What it does." in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, []).exit_code == 2
    assert CliRunner().invoke(app, ["go"]).exit_code == 0


def test_of_several_processes_one_prints_the_error(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        console.run(raising(ConfigError("--x 1: give 2")))
    assert capsys.readouterr() == ("", "")
    assert json.loads((tmp_path / "error.json").read_text())["message"] == "--x 1: give 2"
