"""Stop signals: raised once, in the main thread, and the handlers of before come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sm_pipeline.signals import STOP_SIGNALS, Stopped, stop_on_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_the_block_and_handlers_return(number):
    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    with pytest.raises(Stopped) as stopped, stop_on_signals():
        os.kill(os.getpid(), number)
        pytest.fail("the signal was not noticed")
    assert stopped.value.number == number
    assert str(stopped.value) == signal.Signals(number).name
    assert {each: signal.getsignal(each) for each in STOP_SIGNALS} == before


def test_a_second_signal_does_not_interrupt_the_cleaning_up():
    cleaned = False
    with pytest.raises(Stopped), stop_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR1)
            cleaned = True
    assert cleaned


def test_error_handling_code_lets_it_pass():
    with pytest.raises(Stopped), stop_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # what is tested: a broad handler does not swallow the stop
            pytest.fail("swallowed")


def test_other_threads_are_left_alone():
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with stop_on_signals():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
