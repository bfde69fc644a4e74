"""What the four command lines share: options, errors as one line, reports, and progress.

    app = new_app("sm-pipeline", "From speech corpora to feature stores.")      with --version
    @app.command() ...
    run(app)                                                                    the console script

    $ sm-pipeline extract corpus.jsonl --store out --encoder tinny
    error: --encoder tinny: no such preset or folder; use a model folder, a Hub id or a preset (...)
    $ echo $?
    2

An error is never longer than `sm_store.errors` allows, whatever input it quotes.

`progress` draws a bar on a terminal and writes a plain line about every ten seconds elsewhere; both on
stderr, so that `--json` on stdout stays clean.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

import typer

from sm_pipeline.signals import Stopped
from sm_store.errors import SpeechMapperError, one_line
from sm_store.extras import missing_extra
from sm_store.version import __version__

SECONDS_BETWEEN_LINES = 10.0
LINES_OF_ESTIMATE = 60  # over whose later half the speed is taken: five minutes
FIRST_LINE_AFTER = 1.0  # seconds: shorter work stays silent
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # of wrong flags; typer names only this kind of it
EXIT_SIGNAL = 128  # what a shell adds to the number of the signal that ended a command
LAUNCHER = "SPEECHMAPPER_PARENT"  # in a process that a launcher of ours has started: the launcher's id


class Progress(Protocol):
    """Shows how far a piece of work is."""

    def advance(self, steps: float = 1, **figures: object) -> None:
        """Count `steps` more as done and show `figures` beside them (loss=0.31)."""


class Report(Protocol):
    """The outcome of a command."""

    def to_json(self) -> dict[str, Any]: ...

    def in_words(self) -> str: ...


def new_app(name: str, description: str) -> typer.Typer:
    """An app without commands, with the settings of all our command lines; `--version` prints `NAME VERSION`."""
    app = typer.Typer(
        name=name,
        help=description,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    shown_version = typer.Option(
        False, "--version", callback=print_version, is_eager=True, help="Print the version and exit."
    )

    @app.callback()
    def options(version: bool = shown_version) -> None:
        """Options of every command."""

    return app


def run(app: typer.Typer) -> None:
    """Run a command line; errors of this project end as `error: ...` on stderr with their exit code.

    A wrong flag keeps typer's own message; an unexpected exception keeps its traceback. The command is invoked without
    typer's `main`, which would end on Ctrl-C before it can be told how to continue.
    """
    _print_anything(sys.stdout)
    try:
        _invoke(app)
        sys.stdout.flush()
    except SpeechMapperError as error:
        _print_error(one_line(error))
        sys.exit(error.exit_code)
    except USAGE_ERROR as error:
        _show_usage(error)
    except ModuleNotFoundError as error:  # of an extra, imported at the top of a file
        missing = missing_extra(error)
        if missing is None:
            raise
        _print_error(one_line(missing))
        sys.exit(missing.exit_code)
    except BrokenPipeError:  # `sm-pipeline status STORE | head`
        # Python flushes stdout once more when it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        _print_error(one_line(f"{where}{error.strerror or error}"))
        sys.exit(1)
    except (KeyboardInterrupt, Stopped) as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
        if LAUNCHER not in os.environ:  # which prints it once for all
            sys.stderr.write(f"stopped by {stopped}; {stopped.remedy}\n")
        sys.exit(EXIT_SIGNAL + stopped.number)


def _print_anything(stream: TextIO) -> None:
    """Have a stream escape what its encoding cannot say, as stderr does: a locale may lack UTF-8, a file's name too."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _invoke(app: typer.Typer) -> None:
    """Run the command that the arguments of this process name; help and version end with exit code 0."""
    try:
        with typer.main.get_command(app).make_context(app.info.name, sys.argv[1:]) as context:
            context.command.invoke(context)
    except typer.Exit as ending:
        if ending.exit_code:
            sys.exit(ending.exit_code)


def _show_usage(error: Any) -> NoReturn:
    """Print typer's message on a wrong flag, with a long value cut; or the help, where no command was given."""
    if error.ctx is None or error.message != error.ctx.get_help():
        error.message = one_line(error.message)
    error.show()
    sys.exit(error.exit_code)


def _print_error(message: str) -> None:
    """An error as one line, printed once for all processes of a run.

    They give it to their launcher: ours prints one. Under another launcher the first process prints it besides.
    """
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report is None or (LAUNCHER not in os.environ and os.environ.get("RANK", "0") == "0"):
        sys.stderr.write(f"error: {message}\n")
        return
    # Renamed when it is complete: the launcher may end this process while it writes.
    unfinished = Path(f"{report}.tmp")
    unfinished.write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    unfinished.replace(report)


def print_report(report: Report, as_json: bool) -> None:
    """Print the outcome of a command on stdout: one JSON object, or text."""
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(report.in_words())


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    json.dump(data, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")


@contextmanager
def progress(
    total: float | None, label: str, unit: str, stream: TextIO | None = None, done: float = 0
) -> Iterator[Progress]:
    """Show progress towards `total` (in `unit`) while the block runs.

    Args:
        total: None where it is not known beforehand; then only what is done is shown.
        stream: where to write; stderr by default.
        done: how much was done before; the time left is estimated without it, and without the slow first steps.
    """
    out = stream or sys.stderr
    if out.isatty():
        with _rich_bar(total, label, unit, out, done) as shown:
            yield shown
    else:
        yield _PlainLines(total, label, unit, out, done)


class _PlainLines:
    """Progress as log lines: `extract: 1200/6000 utterances (20%), 40 s left, rejected=3`.

    The time left is that at the speed of the later half of the lines so far, five minutes at most: the first steps of a
    training compile and fill caches, and may take twenty times as long as the others.
    """

    def __init__(self, total: float | None, label: str, unit: str, out: TextIO, done: float) -> None:
        self._total, self._label, self._unit, self._out = total, label, unit, out
        self._done = float(done)
        self._next_line = time.monotonic() + FIRST_LINE_AFTER
        self._times: deque[tuple[float, float]] = deque(maxlen=LINES_OF_ESTIMATE)  # of the first step and each line

    def advance(self, steps: float = 1, **figures: object) -> None:
        self._done += steps
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + SECONDS_BETWEEN_LINES
            parts = [*self._state(now), *(f"{name}={_short(value)}" for name, value in figures.items())]
            self._out.write(f"{self._label}: {', '.join(parts)}\n")
            self._out.flush()
            self._times.append((now, self._done))
        elif not self._times and steps:
            self._times.append((now, self._done))

    def _state(self, now: float) -> list[str]:
        """How much is done, and the time left where it can be estimated."""
        if self._total is None:
            return [f"{self._done:g} {self._unit}"]
        share = self._done / self._total if self._total else 1.0
        parts = [f"{self._done:g}/{self._total:g} {self._unit} ({share:.0%})"]
        then, before = self._times[len(self._times) // 2] if self._times else (now, self._done)
        if self._done > before:
            parts.append(f"{(now - then) * max(self._total - self._done, 0) / (self._done - before):.0f} s left")
        return parts


@contextmanager
def _rich_bar(total: float | None, label: str, unit: str, out: TextIO, done: float) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed:g}}{'' if total is None else '/{task.total:g}'} {unit}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    seconds = SECONDS_BETWEEN_LINES * LINES_OF_ESTIMATE / 2  # as on plain lines
    with Progress(*columns, console=Console(file=out), speed_estimate_period=seconds) as bar:
        task = bar.add_task(label, total=total, completed=int(done), figures="")

        class Bar:
            def advance(self, steps: float = 1, **figures: object) -> None:
                shown = " ".join(f"{name}={_short(value)}" for name, value in figures.items())
                bar.update(task, advance=steps)
                if shown:
                    bar.update(task, figures=shown)

        yield Bar()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
