"""Being told to stop: SIGTERM, SIGUSR1 (preemption) and Ctrl-C drop the unit in hand and end the run in order.

    with stop_on_signals():
        run()          # a signal raises Stopped here; a commit under way is undone or complete, never half

Whatever was committed stays; the same command continues from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(BaseException):
    """A stop signal came. Not an Exception: code that handles errors lets it pass, as with
    KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn stop signals into `Stopped` in the main thread while the block runs; elsewhere, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in STOP_SIGNALS:  # a second signal must not interrupt the cleaning up after the first
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
