"""Processes that decode audio ahead of the encoder; a file that crashes one costs only that file.

    with closing(Decoders(processes=8)) as decoders:
        future = decoders.submit(read_audio, Path("talk.mp3"), cut, 60.0)
        future.result()                  a Waveform, or the SampleError it raised

    thread 0 --function, arguments--> process 0 --result--> thread 0          one pipe and one process per thread

A file can crash a decoder, fill its memory or keep it busy forever. Each process works on one file at a time, so the
cause is known; the process is replaced and the file is tried once more: only a file that ends two of them is rejected,
as `worker_failed` or `decode_timeout`. (A pool of the standard library breaks as a whole when one process dies.)
The processes end when their pipe closes, so also when this process is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from sm_pipeline.signals import STOP_SIGNALS
from sm_store.errors import RunFailed, SampleError

DECODE_SECONDS = 25.0  # twice this is what a hanging file costs, and how long a stopped process goes unnoticed
START_SECONDS = 60.0
ATTEMPTS = 2
MEMORY_BYTES = 2 * 2**30  # of address space beyond what a process starts with

_READY = "ready"

T = TypeVar("T")


class Decoders:
    """A fixed number of processes, started when first needed.

    Args:
        processes: how many. seconds: limit of one call.
    """

    def __init__(self, processes: int, seconds: float = DECODE_SECONDS) -> None:
        self._threads = ThreadPoolExecutor(processes, "decoder")
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._started: list[_Process] = []
        self._closed = False
        self._seconds = seconds

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call a function of a module in one of the processes.

        The future raises what the function raised, or SampleError (`worker_failed`, `decode_timeout`) where the
        process ended or hung twice.
        """
        return self._threads.submit(self._call, function, arguments)

    def close(self) -> None:
        """End the processes and whatever they are doing."""
        with self._lock:
            self._closed = True
        for process in self._started:
            process.interrupt()
        self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            process.kill()

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        failure = SampleError("worker_failed", "not tried")
        for _ in range(ATTEMPTS):
            process = self._process()
            try:
                result: T = process.call(function, arguments, self._seconds)
                return result
            except _Ended as ended:
                failure = SampleError(ended.reason, f"{ended}, {ATTEMPTS} times")
        raise failure

    def _process(self) -> _Process:
        """This thread's process; a new one where it has none or its process ended."""
        process: _Process | None = getattr(self._of_thread, "process", None)
        if process is not None and process.usable:
            return process
        with self._lock:
            if self._closed:
                raise RunFailed("audio is not read any more: the run is ending")
            process = _Process()
            self._started.append(process)
        self._of_thread.process = process
        return process


class _Ended(Exception):
    """A process did not answer; `reason` is the ledger's."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Process:
    """One decoding process and this side of its pipe."""

    def __init__(self) -> None:
        # Not a fork of this process: it would copy locks of torch's threads that are never released.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["sm_pipeline.audio", "sm_pipeline.extraction.decoders"]
        )  # where it is not running yet
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.usable = True
        self._ready = False

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Any:
        """Return what the function returns, or raise what it raises.

        Raises:
            _Ended: the process did not answer.
        """
        self._wait_until_ready()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(seconds):
                self.kill()
                raise _Ended("decode_timeout", f"no end after {seconds:g} s")
            worked, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self.kill()
            raise _Ended("worker_failed", f"the decoding process ended ({_how(self._process.exitcode)})") from error
        if not worked:
            raise answer
        return answer

    def _wait_until_ready(self) -> None:
        """Raise RunFailed where the process does not start: that is no file's fault."""
        if self._ready:
            return
        try:
            self._ready = self._pipe.poll(START_SECONDS) and self._pipe.recv() == _READY
        except (EOFError, OSError):
            self._process.join()
        if not self._ready:
            how = _how(self._process.exitcode)
            self.kill()
            raise RunFailed(
                f"a decoding process did not start ({how}); its own message is above; from Python, call extract under "
                '`if __name__ == "__main__":` in a file'
            )

    def interrupt(self) -> None:
        """End the process while another thread may be waiting for its answer; that thread then cleans up."""
        self._process.kill()

    def kill(self) -> None:
        self.usable = False
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def serve(pipe: Connection) -> None:
    """A decoding process: calls in, results out, until the pipe closes."""
    for number in STOP_SIGNALS:  # they reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    _limit_memory()
    pipe.send(_READY)
    while True:
        try:
            function, arguments = pipe.recv()
            answer = _answer(function, arguments)
            pipe.send(answer)
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """(True, the result) of a call, or (False, its error)."""
    try:
        return True, function(*arguments)
    except MemoryError:
        return False, SampleError("audio_unreadable", f"decoding it takes more than {MEMORY_BYTES / 2**30:g} GiB")
    except Exception as error:
        return False, error


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    limit = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
