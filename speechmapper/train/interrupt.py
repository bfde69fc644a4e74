"""SIGTERM and SIGUSR1 ask a run to save and end; the loop looks after every step.

A cluster that takes a machine back sends SIGTERM (Slurm's `--signal` may send SIGUSR1) some time before the
kill.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class StopRequest:
    """`asked` becomes the signal's name once one has come."""

    asked: str | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note these signals while the block runs; the handlers before it come back after it."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, _frame: FrameType | None) -> None:
        request.asked = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
