"""Stop signals: raised where work can be dropped, noted where it has to reach a checkpoint first.

    with raise_on_signals():                 extraction: a signal raises Stopped here; the unit in hand is dropped,
        run_units()                          a commit is undone or complete, never half

    with note_signals() as request:          training: the loop looks after every step, saves, and ends
        while request.signal is None:
            train_step()                     a second Ctrl-C raises Stopped at once

A cluster that takes a machine back sends SIGTERM (Slurm's `--signal` may send SIGUSR1) some time before it kills the
process. In both cases what was saved stays, and the same command continues from there (training: with --resume).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

PREEMPTION_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOP_SIGNALS = (*PREEMPTION_SIGNALS, signal.SIGINT)
STDERR = 2  # its file descriptor
RUN_AGAIN = "run the same command again to continue"
RESUME = "run the same command with --resume to continue"


class Stopped(BaseException):
    """A stop signal came. Not an `Exception`, so that error handlers let it pass, as they do KeyboardInterrupt.

    Attributes:
        number: of the signal. remedy: how to continue, for the message.
    """

    def __init__(self, number: int, remedy: str = RUN_AGAIN) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.remedy = number, remedy


@dataclass(slots=True)
class StopRequest:
    """`signal` is the name of the last signal received, None while there was none."""

    signal: str | None = None


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Turn SIGTERM, SIGUSR1 and Ctrl-C into `Stopped` while the block runs.

    Only the main thread can handle signals; in others this does nothing.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:  # a second signal must not interrupt the cleanup after the first
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    with _handled(STOP_SIGNALS, stop):
        yield


@contextmanager
def note_signals(answer: str = "") -> Iterator[StopRequest]:
    """Note SIGTERM, SIGUSR1 and Ctrl-C in the request while the block runs; a second Ctrl-C raises `Stopped`.

    Only the main thread can handle signals; in others the request stays empty.

    Args:
        answer: printed on stderr at the first Ctrl-C, since the block may take a while to end.
    """
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        if request.signal == signal.Signals.SIGINT.name and number == signal.SIGINT:
            raise Stopped(number, RESUME)
        request.signal = signal.Signals(number).name
        if number == signal.SIGINT and answer:
            # Not through sys.stderr's buffer: the signal may have come in the middle of a write to it.
            os.write(STDERR, f"\n{answer}\n".encode())

    with _handled(STOP_SIGNALS, note):
        yield request


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler while the block runs, and put the previous ones back after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
