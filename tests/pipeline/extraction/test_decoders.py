"""Decoding processes: the same audio as in this process, and whatever happens to one of them costs no good sample."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sm_pipeline.audio import Cut, file_seconds, read_audio
from sm_pipeline.extraction.decoders import MEMORY_BYTES, Decoders
from sm_store.errors import RunFailed, SampleError
from tests.speech import write_audio


@pytest.fixture
def wav(tmp_path) -> Path:
    path = tmp_path / "a.wav"
    write_audio(path, 1.5, seed=3)
    return path


def decoding_processes() -> list[int]:
    return [each.pid for each in multiprocessing.active_children()]


# Functions that the processes call: what a hostile or broken file does to the one that decodes it.


def die(marker: Path, times: int, how: int) -> str:
    """End this process the first `times` times it is called with this marker."""
    calls = len(list(marker.parent.glob(f"{marker.name}.*")))
    marker.with_name(f"{marker.name}.{calls}").touch()
    if calls < times:
        os.kill(os.getpid(), how)
        time.sleep(20)  # where `how` stops it
    return "read"


def fill_memory() -> int:
    return len(np.ones(MEMORY_BYTES // 8 + 1))


def fail_otherwise() -> None:
    raise ZeroDivisionError("a bug")


def test_audio_is_what_this_process_would_read(wav):
    with closing(Decoders(2)) as decoders:
        futures = [decoders.submit(read_audio, wav, Cut(offset=at), 60.0) for at in (None, 0.25, 1.0)]
        for future, at in zip(futures, (None, 0.25, 1.0), strict=True):
            assert np.array_equal(future.result().samples, read_audio(wav, Cut(offset=at), 60.0).samples)
        assert decoders.submit(file_seconds, wav).result() == 1.5
        assert len(decoding_processes()) <= 2
    assert decoding_processes() == []


def test_a_sample_error_comes_with_reason_and_detail(tmp_path):
    with closing(Decoders(1)) as decoders:
        error = decoders.submit(read_audio, tmp_path / "none.wav", Cut(), 60.0).exception()
    assert isinstance(error, SampleError)
    assert (error.reason, error.detail) == ("audio_missing", "none.wav: no such file or directory")


def test_a_bug_is_no_reject():
    with closing(Decoders(1)) as decoders, pytest.raises(ZeroDivisionError, match="a bug"):
        decoders.submit(fail_otherwise).result()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_process_that_ends_once_costs_nothing(tmp_path, wav, how):
    with closing(Decoders(1, seconds=2.0)) as decoders:
        assert decoders.submit(die, tmp_path / "m", 1, how).result() == "read"
        assert decoders.submit(file_seconds, wav).result() == 1.5


@pytest.mark.parametrize(
    ("how", "reason", "detail"),
    [
        (signal.SIGKILL, "worker_failed", r"the decoding process ended \(SIGKILL\), 2 times"),
        (signal.SIGABRT, "worker_failed", r"\(SIGABRT\), 2 times"),
        (signal.SIGSTOP, "decode_timeout", r"no end after 1 s, 2 times"),
    ],
)
def test_a_file_that_ends_two_is_rejected_and_the_next_is_read(tmp_path, wav, how, reason, detail):
    with closing(Decoders(1, seconds=1.0)) as decoders:
        with pytest.raises(SampleError, match=detail) as raised:
            decoders.submit(die, tmp_path / "m", 2, how).result()
        assert raised.value.reason == reason
        assert decoders.submit(file_seconds, wav).result() == 1.5
    assert decoding_processes() == []


def test_memory_is_limited():
    with closing(Decoders(1)) as decoders, pytest.raises(SampleError, match="takes more than 2 GiB") as raised:
        decoders.submit(fill_memory).result()
    assert raised.value.reason == "audio_unreadable"


def test_closing_does_not_wait_for_a_process_that_hangs(tmp_path):
    decoders = Decoders(1)
    future = decoders.submit(die, tmp_path / "m", 9, signal.SIGSTOP)
    while not list(tmp_path.glob("m.*")):
        time.sleep(0.01)
    began = time.monotonic()
    decoders.close()
    assert time.monotonic() - began < 5
    assert isinstance(future.exception(), RunFailed)
    assert decoding_processes() == []


PARENT = """
import multiprocessing, sys, time
from pathlib import Path
from sm_pipeline.audio import file_seconds
from sm_pipeline.extraction.decoders import Decoders
if __name__ == "__main__":
    decoders = Decoders(1)
    decoders.submit(file_seconds, Path("none.wav")).result()
    print(*[each.pid for each in multiprocessing.active_children()], flush=True)
    time.sleep(SECONDS)
"""


def test_they_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.replace("SECONDS", "60"))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    (pid,) = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_that_no_process_starts_is_no_fault_of_the_file():
    """A script on standard input cannot be imported by other processes, which they need to."""
    script = (
        PARENT.replace("decoders.submit", "print(decoders.submit")
        .replace(".result()", ".exception())")
        .replace("SECONDS", "0")
    )
    run = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert run.stdout.startswith("a decoding process did not start (exit code 1); its own message is above")
