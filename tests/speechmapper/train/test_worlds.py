"""Runs of several processes: the same weights as one, and one end for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, train_stage1
from tests.speechmapper.tiny import distance, stage1_config, stage2_config

ROOT = Path(__file__).parents[3]
STEPS = 6
CLOSE = 1e-6


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """No dropout: its masks would differ by nothing, but its speed is not the matter; utterances of all lengths."""
    from speechmapper.config_file import to_yaml

    made = stage1_config(
        optimizer={"lr": 1e-3},
        data={"frames": 150, "max_utterances": 3, "micro_batches": 4},
        schedule={"steps": STEPS, "warmup": 1, "shape": "constant"},
        run={"save_every": 2},
    )
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml("stage1", made))
    return path


def command(world, out: Path, config: Path, *more: str) -> list[str]:
    flags = ["stage1", "--store", str(world.path), "--out", str(out), "--config", str(config), *more]
    return [sys.executable, "-m", "speechmapper.train.cli", *flags]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "RANK", "WORLD"))}
    return {**kept, "OMP_NUM_THREADS": "1"}


def run(world, out: Path, config: Path, *more: str, **variables: str) -> subprocess.CompletedProcess:
    given = {**environment(), **variables}
    return subprocess.run(
        command(world, out, config, *more), cwd=ROOT, capture_output=True, text=True, env=given, timeout=200
    )


def trained(world, out: Path, config: Path, *more: str) -> Path:
    done = run(world, out, config, *more)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def alone(world, config, tmp_path_factory) -> Path:
    return trained(world, tmp_path_factory.mktemp("alone") / "run", config)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run)]


@pytest.mark.parametrize("processes", [2, 4])
def test_four_micro_batches_are_a_step_however_they_are_shared(world, config, alone, tmp_path, processes):
    out = trained(world, tmp_path / "run", config, "--processes", str(processes))
    assert distance(out, alone) < CLOSE
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5)
    assert [line["step"] for line in read_metrics(out)] == list(range(1, STEPS + 1))


def test_a_chain_of_worlds_is_one_run(world, config, alone, tmp_path):
    for processes, steps in ((1, 2), (2, 4), (4, 6)):
        more = ["--processes", str(processes), "--set", f"schedule.steps={steps}", "--resume"]
        trained(world, tmp_path / "run", config, *more)
    assert distance(tmp_path / "run", alone) < CLOSE


def test_accelerate_launch_is_the_same(world, config, alone, tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    line = [*launcher, *command(world, tmp_path / "run", config)[2:]]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment(), timeout=200)
    assert done.returncode == 0, done.stderr
    assert distance(tmp_path / "run", alone) < CLOSE


def test_a_ctc_projector_is_tuned_by_two_processes_as_by_one(world, tmp_path):
    """Its blank takes part in ctc-embedding alone: averaging gradients must not wait for it."""
    from speechmapper.config_file import to_yaml

    stage1 = stage1_config(objective={"name": "ctc-embedding"}, schedule={"steps": 2, "warmup": 0})
    train_stage1(Stage1Request(world.path, tmp_path / "stage1", stage1))
    (tmp_path / "config.yaml").write_text(to_yaml("stage2", stage2_config(optimizer={"lr": 1e-4})))
    flags = ["--store", world.path, "--projector", tmp_path / "stage1", "--llm", world.llm_folder]
    flags += ["--config", tmp_path / "config.yaml"]
    for processes in (1, 2):
        more = ["--out", tmp_path / f"run{processes}", "--processes", processes]
        line = [sys.executable, "-m", "speechmapper.train.cli", "stage2", *flags, *more]
        done = subprocess.run(
            list(map(str, line)), cwd=ROOT, capture_output=True, text=True, env=environment(), timeout=200
        )
        assert done.returncode == 0, done.stderr
    assert distance(tmp_path / "run1", tmp_path / "run2") < CLOSE


@pytest.mark.parametrize(
    ("setting", "words"),
    [("objective.alpha=12", "alpha 12"), ("data.micro_batches=3", "cannot be shared by 2 processes")],
)
def test_bad_input_is_reported_once(world, config, tmp_path, setting, words):
    done = run(world, tmp_path / "run", config, "--processes", "2", "--set", setting)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and words in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_bad_input_is_reported_once_where_the_first_process_is_the_last(world, config, tmp_path):
    """Process 0 is still importing when process 1 refuses the input and ends the run."""
    slow = "import os, time\nif os.environ.get('RANK') == '0': time.sleep(60)\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    more = ("--processes", "2", "--store", str(tmp_path / "none"))
    done = run(world, tmp_path / "run", config, *more, PYTHONPATH=paths)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and str(tmp_path / "none") in errors[0], done.stderr


def test_a_run_that_fails_says_why_and_which_process(world, config, tmp_path):
    settings = ["optimizer.lr=1e30", "optimizer.clip=0", "run.max_skipped=2", "schedule.steps=50"]
    flags = [part for setting in settings for part in ("--set", setting)]
    done = run(world, tmp_path / "run", config, "--processes", "2", *flags)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "2 steps in a row with a non-finite gradient" in errors[0]
    assert "ended with exit code 1, for the reason above" in errors[-1] and "http" not in done.stderr, done.stderr


def begun(world, out: Path, config: Path) -> subprocess.Popen:
    """A run of two processes that would go on for hours, after some steps."""
    more = ("--processes", "2", "--set", "schedule.steps=1000000")
    process = subprocess.Popen(
        command(world, out, config, *more), cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment()
    )
    limit = time.monotonic() + 120
    while not (out / "checkpoints" / "step-00000004").is_dir():
        assert process.poll() is None and time.monotonic() < limit, process.communicate()[1]
        time.sleep(0.05)
    return process


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    return [each for each in psutil.Process(process.pid).children() if "speechmapper.train.cli" in each.cmdline()]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_and_the_run_goes_on_from_there(world, config, tmp_path, number):
    process = begun(world, tmp_path / "run", config)
    own = workers(process)
    assert len(own) == 2
    process.send_signal(number)
    _, errors_text = process.communicate(timeout=60)
    assert process.returncode == 0, errors_text
    assert gone(own, 5)
    done = len(read_metrics(tmp_path / "run"))
    last = max(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert done == last >= 4
    out = tmp_path / "run"
    trained(world, out, config, "--processes", "2", "--resume", "--set", f"schedule.steps={last + 2}")
    assert [line["step"] for line in read_metrics(out)] == list(range(1, last + 3))


def test_a_second_ctrl_c_ends_all_at_once(world, config, tmp_path):
    process = begun(world, tmp_path / "run", config)
    own = workers(process)
    for each in own:
        each.suspend()  # they end no step any more
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors_text = process.communicate(timeout=20)
    assert process.returncode == 130, errors_text
    lines = [line for line in errors_text.splitlines() if line.startswith(("stopped", "error"))]
    assert lines == ["stopped by SIGINT; run the same command with --resume to continue"], errors_text
    assert gone(own, 5)


def test_a_worker_that_is_killed_ends_the_run(world, config, tmp_path):
    process = begun(world, tmp_path / "run", config)
    own = workers(process)
    own[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, errors_text = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    errors = [line for line in errors_text.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "ended with SIGKILL" in errors[0] and "--resume" in errors[0]
    assert gone(own, 5)


def test_workers_do_not_outlive_their_parent(world, config, tmp_path):
    process = begun(world, tmp_path / "run", config)
    own = workers(process)
    process.kill()
    process.wait(10)
    process.stderr.close()
    assert gone(own, 20)
