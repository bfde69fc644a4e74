"""The Ray engine: one actor per GPU (or CPU) of an existing cluster, given one unit at a time.

    ray start --head                                                    a cluster, of this machine alone
    sm-pipeline extract corpus.jsonl --store corpus.store --engine ray

The store must lie where every node sees it under the same path. An actor whose process or node is lost is started again
by Ray, and its unit is made again; an actor lost too often ends the run with an error. What is committed stays.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from sm_pipeline.extraction.engines.local import BUSY_WAIT, Run
from sm_pipeline.extraction.unit import UnitResult, UnitWork, UnitWorker, WorkerSetup
from sm_store.errors import ConfigError, RunFailed, SpeechMapperError
from sm_store.extras import extra_module

LOSSES = 3  # of an actor, after which the run has failed


def connect() -> Any:
    """The `ray` package, connected to a cluster that is there.

    Raises:
        ConfigError: Ray is not installed, or no cluster is found.
    """
    ray = extra_module("ray")
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise ConfigError(
                f"--engine ray: no Ray cluster can be reached ({str(error).splitlines()[0]}); start one with "
                "`ray start --head`, or name it in RAY_ADDRESS, with RAY_AUTH_MODE=token where it wants one"
            ) from error
    return ray


def device(wanted: str) -> str:
    """Where the actors compute, given `--device`; `auto` is `cuda` where the cluster has GPUs, else `cpu`."""
    found = "cuda" if connect().cluster_resources().get("GPU") else "cpu"
    return found if wanted == "auto" else wanted


def cluster_workers(device: str) -> int:
    """Actors that fit: one for each GPU or CPU of the cluster."""
    return max(int(connect().cluster_resources().get("GPU" if device == "cuda" else "CPU", 0)), 1)


def run_units(run: Run, work: Sequence[UnitWork]) -> Generator[UnitResult]:
    """Run every unit and yield its result as it finishes; closing the generator ends the actors.

    Raises:
        RunFailed: an actor was lost too often. Whatever error of this project an actor met.
    """
    ray = connect()
    gpus = 1 if run.setup.device == "cuda" else 0
    actor_class = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=LOSSES, max_task_retries=LOSSES)(Actor)
    queue = deque(work)
    actors = [actor_class.remote(run.setup) for _ in range(min(run.workers, len(queue)))]
    running: dict[Any, tuple[Any, UnitWork]] = {}
    try:
        for actor in actors:
            _hand_out(actor, queue, running)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor, given = running.pop(done)
            result = _result(ray, done, given)
            if result.busy:
                queue.append(given)
                time.sleep(BUSY_WAIT)
            else:
                run.on_utterances(result.utterances)
                yield result
            _hand_out(actor, queue, running)
    finally:
        for actor in actors:
            ray.kill(actor)


def _hand_out(actor: Any, queue: deque[UnitWork], running: dict[Any, tuple[Any, UnitWork]]) -> None:
    if queue:
        given = queue.popleft()
        running[actor.make.remote(given)] = (actor, given)


def _result(ray: Any, done: Any, given: UnitWork) -> UnitResult:
    try:
        result: UnitResult = ray.get(done)
        return result
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SpeechMapperError):
            raise error.cause from None
        raise RunFailed(f"a worker failed at shard {given.unit.shard}: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"a Ray worker was lost {LOSSES + 1} times, the last time at shard {given.unit.shard} "
            f"({type(error).__name__}); what was committed stays: run the same command again to continue"
        ) from error


class Actor:
    """A worker in a process of Ray's. It is loaded by its first unit, so that what fails there reaches the driver."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._worker: UnitWorker | None = None

    def make(self, given: UnitWork) -> UnitResult:
        if self._worker is None:
            self._worker = UnitWorker(self._setup)
        return self._worker.run_one(given)
