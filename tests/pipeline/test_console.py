"""What command lines share: exit codes, one-line errors, progress off and on a terminal."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sm_pipeline import console
from sm_pipeline.signals import Stopped
from sm_store.errors import LONGEST_MESSAGE, ConfigError, RunFailed, StoreBusy
from sm_store.version import __version__


def app_of(action: Callable[[], object]) -> typer.Typer:
    """A command line of ours with one command, `go`."""
    app = console.new_app("sm-some", "What it does.")
    app.command("go")(action)
    return app


def raising(error: BaseException) -> typer.Typer:
    def go() -> None:
        raise error

    return app_of(go)


@pytest.fixture(autouse=True)
def arguments(monkeypatch):
    """What the command line is given: the command of `app_of`."""
    monkeypatch.setattr(sys, "argv", ["sm-some", "go"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("--x 1: give 2"), 2, "error: --x 1: give 2"),
        (StoreBusy("s: shard 1 is being written"), 2, "error: s: shard 1 is being written"),
        (RunFailed("all\n  rejected"), 1, "error: all rejected"),
        (OSError(28, "No space left on device", "/s/x"), 1, "error: /s/x: No space left on device"),
        (OSError("odd"), 1, "error: odd"),
        (typer.Exit(3), 3, ""),
        (KeyboardInterrupt(), 130, "stopped by SIGINT; run the same command again to continue"),
        (Stopped(15), 143, "stopped by SIGTERM; run the same command again to continue"),
        (Stopped(2, "use --resume"), 130, "stopped by SIGINT; use --resume"),
    ],
)
def test_errors_become_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as left:
        console.run(raising(error))
    out, err = capsys.readouterr()
    assert (left.value.code, out, err) == (code, "", line + "\n" if line else "")


@pytest.mark.parametrize("error", [ZeroDivisionError(), EOFError()])
def test_a_programming_error_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        console.run(raising(error))


def test_success_is_silent(capsys):
    console.run(app_of(lambda: None))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("given", [["go", "--much"], ["nothing"], ["go", "more"]])
def test_a_wrong_flag_keeps_the_usage_message(capsys, monkeypatch, given):
    monkeypatch.setattr(sys, "argv", ["sm-some", *given])
    with pytest.raises(SystemExit) as left:
        console.run(app_of(lambda: None))
    err = capsys.readouterr().err
    assert left.value.code == 2
    assert err.startswith("Usage: sm-some") and given[-1] in err.splitlines()[-1]


def test_no_command_shows_the_whole_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sm-some"])
    app = app_of(lambda: None)
    app.info.help = "What it does. " * 300
    with pytest.raises(SystemExit) as left:
        console.run(app)
    shown = "".join(capsys.readouterr())
    assert left.value.code == 2 and shown.count("does.") == 300 and "go" in shown


@pytest.mark.parametrize(
    "error",
    [
        ConfigError(f"--x {'1' * 1_000_000}: give 2"),
        RunFailed(f"line\n {'of many ' * 100_000}lines: give 2"),
        OSError(36, "File name too long", "n" * 1_000_000),
    ],
)
def test_a_line_is_bounded_whatever_it_quotes(capsys, error):
    with pytest.raises(SystemExit):
        console.run(raising(error))
    err = capsys.readouterr().err
    assert len(err) < LONGEST_MESSAGE + 100 and err.count("\n") == 1
    assert err.endswith(("give 2\n", "File name too long\n"))


def test_a_long_flag_value_that_is_wrong_is_cut(capsys, monkeypatch):
    def go(count: int) -> None:
        """Takes a number."""

    monkeypatch.setattr(sys, "argv", ["sm-some", "go", "n" * 1_000_000])
    with pytest.raises(SystemExit) as left:
        console.run(app_of(go))
    err = capsys.readouterr().err
    assert left.value.code == 2 and "Usage: sm-some go" in err and len(err) < LONGEST_MESSAGE + 500


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_is_no_error(tmp_path, lines):
    code = (
        "from sm_pipeline import console\n"
        f"def go():\n    console.print_json(dict.fromkeys(range({lines})))\n"
        "app = console.new_app('sm-some', ''); app.command('go')(go)\n"
        "console.run(app)"
    )
    command = shlex.join([sys.executable, "-c", code, "go"])
    run = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True
    )
    assert (run.stdout, run.stderr) == ("0\n", "")


def test_ctrl_c_says_how_to_continue():
    code = (
        "import time; from sm_pipeline import console\n"
        "def go():\n    print('ready', flush=True); time.sleep(60)\n"
        "app = console.new_app('sm-some', ''); app.command('go')(go); console.run(app)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "go"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        err = process.stderr.read().decode()
    assert process.returncode == 130
    assert err == "stopped by SIGINT; run the same command again to continue\n"


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
    assert lines[1] == "extract: 12/100 utterances (12%), 88 s left, rejected=11, loss=0.1235"


def test_work_that_is_continued_counts_what_was_done_before(clock):
    out = io.StringIO()
    with console.progress(400, "stage 1", "steps", out, done=119) as shown:
        shown.advance(1)
        clock[0] += 10
        shown.advance(8)
    assert out.getvalue() == "stage 1: 128/400 steps (32%), 340 s left\n"  # 272 steps, 8 in 10 s


def test_the_time_left_leaves_out_the_slow_first_steps(clock):
    out = io.StringIO()
    with console.progress(1000, "stage 1", "steps", out) as shown:
        for seconds in (40.0, 15.0, 5.0, *[0.5] * 100):  # the first steps compile
            clock[0] += seconds
            shown.advance()
    lines = out.getvalue().splitlines()
    left = [int(re.search(r", (\d+) s left", line)[1]) for line in lines if "left" in line]
    assert lines[0] == "stage 1: 1/1000 steps (0%)"  # nothing is known yet
    assert left[-3:] == [pytest.approx(seconds, rel=0.05) for seconds in (478, 468, 458)]
    assert max(left[2:]) < 2.2 * 500


def test_a_total_that_is_not_known(clock):
    out = io.StringIO()
    with console.progress(None, "reading hf", "rows", out) as shown:
        for _ in range(30):
            clock[0] += 0.5
            shown.advance(1000)
    assert out.getvalue().splitlines() == ["reading hf: 2000 rows", "reading hf: 22000 rows"]


@pytest.mark.parametrize(
    ("environment", "printed", "reported"),
    [
        ({}, True, False),
        ({"TORCHELASTIC_ERROR_FILE": "r", "RANK": "0"}, True, False),  # of another launcher
        ({"TORCHELASTIC_ERROR_FILE": "r", "RANK": "1"}, False, True),
        ({"TORCHELASTIC_ERROR_FILE": "r", "RANK": "0", console.LAUNCHER: "7"}, False, True),  # ours prints it
    ],
)
def test_of_several_processes_the_launcher_or_the_first_prints(
    tmp_path, monkeypatch, capsys, environment, printed, reported
):
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        console.run(raising(ConfigError("--x 1: give 2")))
    assert capsys.readouterr().err == ("error: --x 1: give 2\n" if printed else "")
    assert [path.name for path in tmp_path.iterdir()] == (["r"] if reported else [])
    if reported:
        assert json.loads((tmp_path / "r").read_text())["message"] == "--x 1: give 2"


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_without_a_total():
    out = Terminal()
    with console.progress(None, "reading hf", "rows", out) as shown:
        shown.advance(3)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "reading hf" in text and "3 rows" in text and "None" not in text


def test_a_bar_on_a_terminal():
    out = Terminal()
    with console.progress(8, "extract", "shards", out, done=4) as shown:
        shown.advance(3, rejected=2)
        shown.advance(1)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "extract" in text
    assert "8/8 shards" in text
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
