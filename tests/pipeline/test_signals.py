"""Stop signals: raised once or noted, in the main thread only, and the previous handlers come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sm_pipeline.signals import RESUME, STOP_SIGNALS, Stopped, note_signals, raise_on_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_the_block_and_handlers_return(number):
    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    with pytest.raises(Stopped) as stopped, raise_on_signals():
        os.kill(os.getpid(), number)
        pytest.fail("the signal was not noticed")
    assert stopped.value.number == number
    assert str(stopped.value) == signal.Signals(number).name
    assert {each: signal.getsignal(each) for each in STOP_SIGNALS} == before


def test_a_second_signal_does_not_interrupt_the_cleanup():
    cleaned = False
    with pytest.raises(Stopped), raise_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR1)
            cleaned = True
    assert cleaned


def test_error_handlers_let_it_pass():
    with pytest.raises(Stopped), raise_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # what is tested: a broad handler does not swallow the stop
            pytest.fail("swallowed")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_and_the_handler_restored(number):
    before = signal.getsignal(number)
    with note_signals() as request:
        assert request.signal is None
        os.kill(os.getpid(), number)
        assert request.signal == signal.Signals(number).name
    assert signal.getsignal(number) == before


def test_ctrl_c_is_answered_and_a_second_one_raises(capfd):
    with pytest.raises(Stopped) as stopped, note_signals("saving") as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == "SIGINT"
        assert capfd.readouterr().err == "\nsaving\n"
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was not noticed")
    assert (stopped.value.number, stopped.value.remedy) == (signal.SIGINT, RESUME)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("block", [raise_on_signals, note_signals])
def test_other_threads_get_no_handler(block):
    failures: list[BaseException] = []
    noted: list[object] = []

    def work() -> None:
        try:
            with block() as request:
                noted.append(request.signal if request is not None else None)
        except BaseException as error:
            failures.append(error)

    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert noted == [None]
    assert {each: signal.getsignal(each) for each in STOP_SIGNALS} == before
