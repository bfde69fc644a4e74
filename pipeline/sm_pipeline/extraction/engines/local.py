"""The local engine: processes on this machine, each with its own encoder, given work units one by one.

    for result in run_units(Run(setup, workers=4), work):
        print(result.shard, result.written)               in the order they finish

    parent --units--> worker 0..N-1 --results--> parent          one pipe per worker

A worker is given its next unit while it processes one, so that it can read ahead, until few are left. With one worker
the units run in this process. A unit that another run is processing is tried again until it is done or free. A worker
that dies ends the run with an error within moments; what is committed stays. Workers end with the parent: their
pipe closes.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from sm_pipeline.devices import choose_device
from sm_pipeline.encoders.base import Encoder
from sm_pipeline.extraction.encoding import single_thread
from sm_pipeline.extraction.unit import UnitResult, UnitWork, UnitWorker, WorkerSetup
from sm_pipeline.signals import Stopped, raise_on_signals
from sm_store.errors import RunFailed, SpeechMapperError
from sm_store.system import cpus

SECONDS_WORTH_A_WORKER = 600.0  # of audio: a worker takes several seconds to start
BUSY_WAIT = 0.5  # seconds before a unit that another run has claimed is tried again
STOP_WAIT = 10.0  # seconds a worker has to drop its unit before it is killed


@dataclass(frozen=True, slots=True)
class Run:
    """How the units are run.

    Attributes:
        workers: processes; with one, everything runs in this process.
        encoder: already loaded, for that case.
        on_utterances: called with how many more utterances were processed.
    """

    setup: WorkerSetup
    workers: int = 1
    encoder: Encoder | None = None
    on_utterances: Callable[[int], object] = lambda count: None


def device(wanted: str) -> str:
    """Where the workers compute, given `--device`: `cuda` without a number means each GPU in turn."""
    return str(choose_device(wanted))


def default_workers(device: str, seconds: float) -> int:
    """How many processes encode so many seconds of audio: one per GPU; on a CPU one per core, since each computes
    with one thread, but no more than are worth starting."""
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    worth = 1 + int(seconds / SECONDS_WORTH_A_WORKER)
    return 1 if device.startswith("cuda") else min(cpus(), worth)


def run_units(run: Run, work: Sequence[UnitWork]) -> Generator[UnitResult]:
    """Run every unit and yield its result as it finishes; closing the generator ends the workers.

    Raises:
        RunFailed: a worker died. Whatever error of this project a worker met.
    """
    return _run_here(run, deque(work)) if run.workers <= 1 else _run_in_processes(run, deque(work))


def _run_here(run: Run, queue: deque[UnitWork]) -> Generator[UnitResult]:
    by_shard = {each.unit.shard: each for each in queue}
    with closing(UnitWorker(run.setup, run.encoder)) as worker:
        while queue:
            for result in worker.run(lambda _wait: queue.popleft() if queue else None, run.on_utterances):
                if result.busy:
                    queue.append(by_shard[result.shard])
                    time.sleep(BUSY_WAIT)
                else:
                    yield result


@dataclass(slots=True)
class _Worker:
    """The parent's end of a worker process."""

    process: BaseProcess
    pipe: Connection
    work: dict[int, UnitWork] = field(default_factory=dict)  # by shard: handed out and not finished

    def hand_out(self, queue: deque[UnitWork]) -> None:
        if queue:
            given = queue.popleft()
            self.work[given.unit.shard] = given
            self.pipe.send(given)


def _run_in_processes(run: Run, queue: deque[UnitWork]) -> Generator[UnitResult]:
    workers: list[_Worker] = []
    try:
        for number in range(min(run.workers, len(queue))):
            workers.append(_start(run.setup, number))
        for worker in workers:
            worker.hand_out(queue)
        for worker in workers:
            if len(queue) > len(workers):
                worker.hand_out(queue)
        while running := [worker for worker in workers if worker.work]:
            for worker in _ready(running):
                result = _receive(worker)
                if isinstance(result, int):
                    run.on_utterances(result)
                    continue
                given = worker.work.pop(result.shard)
                if result.busy:
                    queue.append(given)
                    time.sleep(BUSY_WAIT)
                else:
                    yield result
                if not worker.work or len(queue) > len(workers):
                    worker.hand_out(queue)
    finally:
        _end(workers)


def _start(setup: WorkerSetup, number: int) -> _Worker:
    # A fork of this process would copy locks of torch's threads that are never released. The fork server imports what
    # workers need once, starts no threads, and is forked for each of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sm_pipeline.extraction.unit"])
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(_place(setup, number), theirs))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _place(setup: WorkerSetup, number: int) -> WorkerSetup:
    """One GPU a worker, in turn, where the device is `cuda` without a number."""
    if setup.device != "cuda":
        return setup
    import torch

    return replace(setup, device=f"cuda:{number % torch.cuda.device_count()}")


def _ready(running: Sequence[_Worker]) -> list[_Worker]:
    ends = {worker.pipe: worker for worker in running}
    return [ends[pipe] for pipe in wait(list(ends)) if isinstance(pipe, Connection)]


def _receive(worker: _Worker) -> UnitResult | int:
    """A finished unit, or how many more of its utterances were worked on."""
    try:
        answer = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join(STOP_WAIT)
        raise RunFailed(
            f"a worker process died (exit code {worker.process.exitcode}); what was committed stays: "
            "run the same command again to continue, with fewer --workers if memory ran out"
        ) from None
    if isinstance(answer, BaseException):
        raise answer
    result: UnitResult | int = answer
    return result


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
        if worker.work and worker.process.is_alive():
            worker.process.terminate()
    for worker in workers:
        worker.process.join(STOP_WAIT)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def serve(setup: WorkerSetup, pipe: Connection) -> None:
    """A worker process: units in, results out, until the pipe closes."""
    try:
        with raise_on_signals():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
            with single_thread(setup.device):  # loading too: idle threads of many workers would spin on few cores
                worker = UnitWorker(setup)
            with closing(worker):
                for result in worker.run(lambda wait: pipe.recv() if wait or pipe.poll() else None, pipe.send):
                    pipe.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError, Stopped):
        return
    except (SpeechMapperError, OSError) as error:  # bad input, a full disk, a folder without permission
        pipe.send(error)
    except Exception:
        pipe.send(RunFailed(f"a worker process failed: {traceback.format_exc(limit=-3)}"))
