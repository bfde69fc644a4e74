"""The Slurm engine: the shares of an array cover every unit once, and its job file runs and is queued again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sm_pipeline.extraction.engines.slurm import array_share
from sm_store import Store
from sm_store.errors import ConfigError
from tests.pipeline.extraction.test_extract import files_of
from tests.speech import write_corpus

JOBS = Path(__file__).parents[4] / "jobs" / "slurm"


def task(number: int, first: int, last: int, count: int | None = None) -> dict[str, str]:
    """What Slurm sets for a task of the array `first`-`last`."""
    values = {"ID": number, "MIN": first, "MAX": last, "COUNT": last - first + 1 if count is None else count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize("units", [0, 1, 5, 16, 100])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 15), (1, 3), (7, 9)])
def test_each_unit_is_of_one_task(units, first, last):
    shares = [array_share(range(units), task(number, first, last)) for number in range(first, last + 1)]
    assert sorted(unit for share in shares for unit in share) == list(range(units))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no SLURM_ARRAY_TASK_ID: this is no task of an array job; submit it with `sbatch --array"),
        (task(3, 3, 9, 2), "the array 3 to 9 has 2 tasks; give a range without gaps or steps, like --array=0-1"),
        (task(2, 0, 6, 4), "without gaps or steps, like --array=0-3"),
        ({**task(2, 0, 6), "SLURM_ARRAY_TASK_ID": "x"}, "SLURM_ARRAY_TASK_.: invalid literal"),
    ],
)
def test_what_is_no_whole_array_is_refused(environment, said):
    with pytest.raises(ConfigError, match=said):
        array_share(range(9), environment)


# -- the job file; `srun` and `scontrol` stand in for a cluster that tests do not have -------------------------

SHIMS = {
    "srun": '#!/bin/bash\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "scontrol $*"\n',
}


@pytest.fixture
def cluster(tmp_path):
    """Runs the job file for one task of an array of two."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, text in SHIMS.items():
        (shims / name).write_text(text)
        (shims / name).chmod(0o755)
    bash = shutil.which("bash")

    def start(number: int, *arguments: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            **task(number, 0, 1),
            "PATH": f"{shims}:{os.environ['PATH']}",
            "SPEECHMAPPER_BIN": str(Path(sys.executable).parent),
            "SLURM_ARRAY_JOB_ID": "77",
        }
        command = [bash, str(JOBS / "extract.sbatch"), *arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


def arguments_for(manifest: Path, store: Path) -> list[str]:
    settings = ["--encoder", "tiny-seamless", "--device", "cpu", "--workers", "1", "--shard-utterances", "2"]
    return [str(manifest), "--store", str(store), *settings]


def test_two_tasks_at_once_make_the_store_that_one_process_makes(tmp_path, cluster):
    manifest = write_corpus(tmp_path / "corpus", 7)
    store = tmp_path / "s.store"
    tasks = [cluster(number, *arguments_for(manifest, store)) for number in (0, 1)]
    for each in tasks:
        _, messages = each.communicate(timeout=120)
        assert each.returncode == 0, messages
    alone = subprocess.run(
        [Path(sys.executable).parent / "sm-pipeline", "extract", *arguments_for(manifest, tmp_path / "alone.store")],
        check=True,
        capture_output=True,
    )
    assert alone.returncode == 0
    assert files_of(store) == files_of(tmp_path / "alone.store")


def test_a_preempted_task_is_queued_again_and_goes_on(tmp_path, cluster):
    manifest = write_corpus(tmp_path / "corpus", 60)
    store = tmp_path / "s.store"
    first = cluster(0, *arguments_for(manifest, store))
    until = time.monotonic() + 60
    while not (store / "catalog" / "00002.parquet").exists() and time.monotonic() < until:
        time.sleep(0.01)
    (python,) = [int(line) for line in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    os.kill(python, signal.SIGUSR1)  # Slurm signals the steps of a job, not its script
    said, messages = first.communicate(timeout=60)
    assert said.splitlines()[-1] == "scontrol requeue 77_0", messages
    assert 0 < len(Store.open(store).done_shards()) < 15
    for number in (0, 1):
        each = cluster(number, *arguments_for(manifest, store))
        _, messages = each.communicate(timeout=120)
        assert each.returncode == 0, messages
    assert Store.open(store).done_shards() == set(range(30))
