"""What the command lines share: errors become one line, long work shows how far it is.

    $ sm-pipeline extract corpus.jsonl --store out --encoder tinny
    error: --encoder tinny: no such preset or folder; use a model folder, a Hub id or a preset (...)
    $ echo $?
    2

`progress` draws a bar on a terminal and writes a plain line about every ten seconds elsewhere; both on
stderr, so that `--json` on stdout stays clean.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from sm_pipeline.signals import Stopped
from sm_store.errors import SpeechMapperError

SECONDS_BETWEEN_LINES = 10.0
FIRST_LINE_AFTER = 1.0  # seconds: shorter work stays silent
EXIT_SIGNAL = 128  # what a shell adds to the number of the signal that ended a command


class Progress(Protocol):
    """Reports how far a piece of work is."""

    def advance(self, steps: float = 1, **figures: object) -> None:
        """`steps` more are done; `figures` are shown beside it (loss=0.31)."""


def run(app: Callable[[], object]) -> None:
    """Run a typer app; this project's errors end as `error: ...` on stderr with their exit code.

    A wrong flag keeps typer's own message; anything unforeseen keeps its traceback.
    """
    try:
        app()
    except SpeechMapperError as error:
        _tell(" ".join(str(error).split()))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `sm-pipeline status STORE | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}\n")
        sys.exit(1)
    except (KeyboardInterrupt, Stopped) as stop:
        sys.stderr.write(f"stopped by {str(stop) or 'SIGINT'}; run the same command again to continue\n")
        sys.exit(EXIT_SIGNAL + (stop.number if isinstance(stop, Stopped) else signal.SIGINT))


def _tell(message: str) -> None:
    """An error as one line; of several processes of a run only the first writes, the others tell their launcher."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report and os.environ.get("RANK", "0") != "0":
        Path(report).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    else:
        sys.stderr.write(f"error: {message}\n")


@contextmanager
def progress(total: float, label: str, unit: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """Show progress towards `total` (in `unit`) while the block runs.

    Args:
        stream: where to write; stderr by default.
    """
    out = stream or sys.stderr
    if out.isatty():
        with _rich_bar(total, label, unit, out) as shown:
            yield shown
    else:
        yield _PlainLines(total, label, unit, out)


class _PlainLines:
    """Progress as log lines: `extract: 1200/6000 utterances (20 %), 40 s left, rejected=3`."""

    def __init__(self, total: float, label: str, unit: str, out: TextIO) -> None:
        self._total, self._label, self._unit, self._out = total, label, unit, out
        self._done = 0.0
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_AFTER

    def advance(self, steps: float = 1, **figures: object) -> None:
        self._done += steps
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + SECONDS_BETWEEN_LINES
        left = (now - self._started) * max(self._total - self._done, 0) / max(self._done, 1e-9)
        share = self._done / self._total if self._total else 1.0
        parts = [f"{self._done:g}/{self._total:g} {self._unit} ({share:.0%})", f"{left:.0f} s left"]
        parts += [f"{name}={_short(value)}" for name, value in figures.items()]
        self._out.write(f"{self._label}: {', '.join(parts)}\n")
        self._out.flush()


@contextmanager
def _rich_bar(total: float, label: str, unit: str, out: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed:g}}/{{task.total:g}} {unit}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(file=out)) as bar:
        task = bar.add_task(label, total=total, figures="")

        class Bar:
            def advance(self, steps: float = 1, **figures: object) -> None:
                shown = " ".join(f"{name}={_short(value)}" for name, value in figures.items())
                bar.update(task, advance=steps)
                if shown:
                    bar.update(task, figures=shown)

        yield Bar()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
