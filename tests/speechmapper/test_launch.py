"""What starts and ends the processes of a run; tests/speechmapper/train/test_worlds.py starts them for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from sm_pipeline.signals import RESUME, Stopped
from sm_store.errors import ConfigError, RunFailed
from speechmapper.launch import (
    PARENT,
    TRAINING,
    _raise_failures,
    end_with_parent,
    is_main,
    run_processes,
    without_processes,
    worker_environment,
)


def test_the_command_line_of_a_worker():
    line = ["stage1", "--processes", "4", "--out", "o", "--processes=2", "--resume"]
    assert without_processes(line) == ["stage1", "--out", "o", "--resume"]
    environment = worker_environment(1, 2, 4711)
    assert (environment["RANK"], environment["LOCAL_RANK"], environment["WORLD_SIZE"], environment["MASTER_PORT"]) == (
        "1",
        "1",
        "2",
        "4711",
    )
    assert environment[PARENT] == str(os.getpid())


def test_threads_are_divided_among_workers_unless_their_number_is_set(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert worker_environment(0, 2, 1)["OMP_NUM_THREADS"] == "4"
    assert worker_environment(0, 16, 1)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environment(0, 2, 1)["OMP_NUM_THREADS"] == "3"


def test_the_main_process_is_the_one_of_rank_0(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_main()
    for rank, expected in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert is_main() is expected


def test_processes_under_a_launcher_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a launcher has started several processes already"):
        run_processes(TRAINING, 2, ["stage1", "--processes", "2"])


@dataclass
class Failure:
    """As torch's launcher reports one: negative exit codes are signals; a process may have left its error in a file."""

    exitcode: int
    timestamp: int = 0
    message: str = "<NONE>"

    @property
    def error_file(self) -> str:
        return __file__ if self.message != "<NONE>" else "<N/A>"


def test_no_failures_raise_nothing():
    assert _raise_failures({}, RESUME) is None


def test_refused_input_keeps_its_exit_code():
    with pytest.raises(SystemExit) as end:
        _raise_failures({0: Failure(2), 1: Failure(2)}, RESUME)
    assert end.value.code == 2


def test_refused_input_is_printed_whichever_process_ends_first():
    for failures in ({0: Failure(-15), 1: Failure(2, 0, "no store")}, {1: Failure(2, 0, "no store")}):
        with pytest.raises(ConfigError, match="no store"):
            _raise_failures(failures, RESUME)


def test_the_reason_of_a_failure_is_printed_above_it(capsys):
    with pytest.raises(RunFailed, match="process 1 of the run ended with exit code 1, for the reason above"):
        _raise_failures({0: Failure(-15, 5), 1: Failure(1, 4, "not finite")}, RESUME)
    assert capsys.readouterr().err == "error: not finite\n"


@pytest.mark.parametrize("codes", [(-2, -2), (130, -15), (143,)])
def test_workers_that_a_signal_ended_before_they_could_save_are_stopped(codes):
    failures = {rank: Failure(code) for rank, code in enumerate(codes)}
    with pytest.raises(Stopped) as stopped:
        _raise_failures(failures, RESUME, [signal.SIGINT])
    assert (stopped.value.number, stopped.value.remedy) == (signal.SIGINT, RESUME)
    with pytest.raises(RunFailed):
        _raise_failures({**failures, 7: Failure(1)}, RESUME, [signal.SIGINT])


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ({0: Failure(1), 1: Failure(-15)}, "process 0 of the run ended with exit code 1, for the reason above"),
        ({0: Failure(1, 5), 1: Failure(1, 4)}, "process 1 of the run ended with exit code 1"),
        ({0: Failure(1, 1), 1: Failure(-9, 2)}, "process 1 of the run ended with SIGKILL"),
        ({0: Failure(-15, 3), 1: Failure(-15, 2)}, "process 1 of the run ended with SIGTERM"),
        ({1: Failure(2)}, "process 1 of the run ended with exit code 2"),
    ],
)
def test_the_process_that_failed_by_itself_is_named(failures, words):
    with pytest.raises(RunFailed, match=words) as error:
        _raise_failures(failures, RESUME)
    assert str(error.value).endswith(f"; {RESUME}")


def test_a_process_without_a_parent_to_follow_lives_on(monkeypatch):
    monkeypatch.delenv(PARENT, raising=False)
    end_with_parent()


def test_a_worker_whose_parent_is_gone_already_ends():
    code = "from speechmapper.launch import end_with_parent; end_with_parent(); print('alive')"
    for parent, expected in ((os.getpid(), (0, "alive")), (1, (1, ""))):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, PARENT: str(parent)}, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.strip()) == expected, done.stderr
