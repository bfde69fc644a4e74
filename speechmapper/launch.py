"""`--processes N`: the same command in N processes of this machine, one per GPU, which end together.

    run_processes(TRAINING, 2, ["stage1", ..., "--processes", "2"])
      python -m speechmapper.train.cli stage1 ...     RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 ...
      python -m speechmapper.train.cli stage1 ...     RANK=1 ...

torch's launcher starts and watches them; Accelerate finds what it needs in their environment. SIGTERM, SIGUSR1 and
SIGINT are passed on, so that all of them save what they have and end; a second Ctrl-C ends them at once. Where one
fails, the others are ended. The workers hand their errors to this process, which prints one: whichever of them ends
first, the line is there. For several machines, run the same command under `accelerate launch` (jobs/).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sm_pipeline.console import EXIT_SIGNAL
from sm_pipeline.console import LAUNCHER as PARENT  # the process a worker must not outlive
from sm_pipeline.signals import RESUME, RUN_AGAIN, STOP_SIGNALS, Stopped
from sm_store.errors import ConfigError, RunFailed

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

POLL_SECONDS = 1.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
BAD_INPUT = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A command line that runs in several processes: its name, its module, and how to continue after it has ended."""

    name: str
    module: str
    remedy: str


TRAINING = Command("sm-train", "speechmapper.train.cli", RESUME)
EVALUATION = Command("sm-eval", "speechmapper.eval.cli", RUN_AGAIN)


def run_processes(program: Command, count: int, arguments: Sequence[str]) -> None:
    """Run this command line, without its `--processes`, in `count` processes until all have ended.

    Raises:
        ConfigError: under a launcher already, or the workers refused their input. RunFailed: a process failed or died.
        Stopped: a signal ended the workers before they could save, or a second Ctrl-C came.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--processes: a launcher has started several processes already; leave one of the two out")
    from torch.distributed import TCPStore
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its failures are reported below
    command = ("-m", program.module, *without_processes(arguments))
    # Listens before any worker connects: a port that is only chosen here may be taken by then.
    rendezvous = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = start_processes(
        program.name,
        sys.executable,
        args=dict.fromkeys(range(count), command),
        envs={rank: worker_environment(rank, count, rendezvous.port) for rank in range(count)},
        logs_specs=DefaultLogsSpecs(),
    )

    passed_on: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if number == signal.SIGINT and number in passed_on:
            raise Stopped(number, program.remedy)
        passed_on.append(number)
        for pid in context.pids().values():
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # has ended already
                continue

    for number in STOP_SIGNALS:
        signal.signal(number, pass_on)
    result = None
    try:
        while result is None:
            result = context.wait(timeout=POLL_SECONDS)
    except Stopped:
        context.close(signal.SIGKILL)  # checkpoints are complete or absent
        raise
    finally:
        context.close()
    _raise_failures(result.failures, program.remedy, passed_on)


def _raise_failures(failures: Mapping[int, ProcessFailure], remedy: str, passed_on: Sequence[int] = ()) -> None:
    """Raise for the first process that failed by itself; the others were ended because of it.

    Args:
        remedy: how to continue.
        passed_on: the signals that were sent to all of them.
    """
    if not failures:
        return
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    if passed_on and all(code in ending_codes(passed_on) for code in codes.values()):
        raise Stopped(passed_on[-1], remedy)
    by_itself = [rank for rank, code in codes.items() if code != -signal.SIGTERM] or list(codes)
    reports = [failures[rank] for rank in sorted(by_itself)]
    errors = [str(report.message) for report in reports if Path(report.error_file).is_file()]
    if all(codes[rank] == BAD_INPUT for rank in by_itself) and (errors or 0 in by_itself):
        raise ConfigError(errors[0]) if errors else SystemExit(BAD_INPUT)
    if errors:
        sys.stderr.write(f"error: {errors[0]}\n")
    died = [rank for rank in by_itself if codes[rank] < 0]
    rank = min(died or by_itself, key=lambda each: failures[each].timestamp)
    how = signal.Signals(-codes[rank]).name if codes[rank] < 0 else f"exit code {codes[rank]}, for the reason above"
    raise RunFailed(f"process {rank} of the run ended with {how}; the others were ended; {remedy}")


def ending_codes(numbers: Sequence[int]) -> set[int]:
    """Exit codes of processes that these signals, or the launcher after them, have ended."""
    return {code for number in (*numbers, signal.SIGTERM) for code in (-number, EXIT_SIGNAL + number)}


def is_main() -> bool:
    """Whether this process is the main one of its run, which prints the outcome."""
    return os.environ.get("RANK", "0") == "0"


def worker_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Environment of worker `rank` of `count`; CPU threads are divided among them unless OMP_NUM_THREADS is set."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": threads,
        PARENT: str(os.getpid()),
    }


def without_processes(arguments: Sequence[str]) -> list[str]:
    """A command line without `--processes N` and `--processes=N`."""
    kept: list[str] = []
    waiting = False
    for argument in arguments:
        if waiting or argument.startswith("--processes="):
            waiting = False
        elif argument == "--processes":
            waiting = True
        else:
            kept.append(argument)
    return kept


def end_with_parent() -> None:
    """In a worker: arrange to be killed when the parent dies (Linux; elsewhere losing its peers ends a worker)."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before this was arranged
        sys.exit(1)
