"""A signal asks once; the handlers before it come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from speechmapper.train.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handler_restored(number):
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        assert request.asked is None
        os.kill(os.getpid(), number)
        assert request.asked == signal.Signals(number).name
    assert signal.getsignal(number) == before


def test_other_threads_get_no_handler():
    seen = []

    def work():
        with stop_on_signals() as request:
            seen.append(request.asked)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(signal.SIGTERM) == before
