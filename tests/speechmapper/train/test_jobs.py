"""The job file of training: its tasks become processes of one run, and an unfinished one is queued again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from speechmapper.config_file import to_yaml
from speechmapper.train.log import read_metrics
from tests.speechmapper.tiny import stage1_config

JOBS = Path(__file__).parents[3] / "jobs"
# Two tasks, as Slurm's srun would start them; it passes signals on.
SRUN = """#!/bin/bash
shift
pids=()
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" &
    pids+=($!)
done
trap 'kill -USR1 "${pids[@]}"' USR1
for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; status=$?; done
done
exit "$status"
"""


@pytest.fixture
def job(tmp_path, world):
    """Starts the job file with two tasks."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "scontrol $*"\n'}.items():
        (shims / name).write_text(text)
        (shims / name).chmod(0o755)
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml("stage1", stage1_config(data={"frames": 150, "micro_batches": 2})))

    def start(*settings: str) -> subprocess.Popen:
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
            "PATH": f"{shims}:{os.environ['PATH']}",
            "SPEECHMAPPER_BIN": str(Path(sys.executable).parent),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        flags = ["--store", str(world.path), "--config", str(config), "--out", str(tmp_path / "run")]
        for setting in settings:
            flags += ["--set", setting]
        return subprocess.Popen(
            [shutil.which("bash"), str(JOBS / "slurm" / "stage1.sbatch"), *flags],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_job_that_runs_out_of_time_is_queued_again_and_goes_on(job, tmp_path):
    first = job("schedule.steps=1000000", "run.save_every=2")
    until = time.monotonic() + 100
    while not (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir() and time.monotonic() < until:
        time.sleep(0.05)
    (srun,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(srun), signal.SIGUSR1)
    printed, messages = first.communicate(timeout=60)
    assert first.returncode == 0, messages
    assert printed.splitlines()[-1] == f"scontrol requeue {os.getpid()}", messages
    done = max(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    second = job(f"schedule.steps={done + 1}", "run.save_every=2")
    printed, messages = second.communicate(timeout=100)
    assert second.returncode == 0, messages
    assert '"finished": true' in printed and "requeue" not in printed
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(1, done + 2))


def test_a_job_with_bad_input_fails_and_is_not_queued_again(job):
    failed = job("objective.alpha=12")
    printed, messages = failed.communicate(timeout=100)
    assert failed.returncode == 2 and "requeue" not in printed
    assert "alpha 12" in messages


@pytest.mark.parametrize("name", ["one-node.yaml", "two-nodes.yaml"])
def test_accelerate_takes_its_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(JOBS / "accelerate" / name))
    given = yaml.safe_load((JOBS / "accelerate" / name).read_text())
    assert (found.num_processes, found.num_machines) == (given["num_processes"], given["num_machines"])
