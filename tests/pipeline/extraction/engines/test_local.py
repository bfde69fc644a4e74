"""The local engine: one process or several, the same results; and none left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

from sm_pipeline.encoders import load_encoder
from sm_pipeline.extraction.engines.local import Run, run_units
from sm_pipeline.extraction.plan import UnitRule, plan_units
from sm_pipeline.extraction.unit import UnitWork
from sm_store import Identity, Store, paths
from sm_store.errors import IdentityMismatch, ModelError, RunFailed
from tests.pipeline.extraction.test_unit import ConstantEncoder, corpus, make_store, setup_for
from tests.speech import write_audio


@pytest.fixture
def tasks(tmp_path):
    """Six units of one utterance."""
    lines = []
    for number in range(6):
        write_audio(tmp_path / f"{number}.wav", 1.0, seed=number)
        lines.append({"id": f"u{number}", "audio": f"{number}.wav", "text": "a", "duration": 1.0})
    utterances = corpus(tmp_path, lines)
    units = plan_units(utterances, UnitRule(1.0, max_utterances=1))
    return [UnitWork(unit, (utterances[unit.start],)) for unit in units]


def tiny_store(path) -> Store:
    """Of the encoder that worker processes load."""
    return Store.create(path, Identity(encoder=load_encoder("tiny-seamless", device="cpu").identity()))


def children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children()]


def test_in_this_process(tmp_path, tasks):
    store = make_store(tmp_path / "s")
    advanced: list[int] = []
    run = Run(setup_for(store, tmp_path), 1, ConstantEncoder(), advanced.append)
    assert [result.shard for result in run_units(run, tasks)] == list(range(6))
    assert sum(advanced) == 6
    assert store.done_shards() == set(range(6))
    assert children() == []


def test_in_processes(tmp_path, tasks):
    store = tiny_store(tmp_path / "s")
    advanced: list[int] = []
    run = Run(setup_for(store, tmp_path), 2, on_utterances=advanced.append)
    results = list(run_units(run, tasks))
    assert sorted(result.shard for result in results) == list(range(6))
    assert sum(result.written for result in results) == sum(advanced) == 6
    assert store.done_shards() == set(range(6))
    assert children() == []


def test_an_error_of_a_worker_is_raised_here(tmp_path, tasks):
    setup = setup_for(tiny_store(tmp_path / "s"), tmp_path)
    wrong = type(setup)(**{name: getattr(setup, name) for name in setup.__slots__} | {"layer": 9})
    with pytest.raises(ModelError, match="layers 1 to 2"):
        list(run_units(Run(wrong, 2), tasks))
    assert children() == []


def test_a_worker_that_loads_another_encoder_is_refused(tmp_path, tasks):
    store = make_store(tmp_path / "s", 7)
    with pytest.raises(
        IdentityMismatch, match=r"the encoder that .* loads: made with other settings .*width: 7 != 256"
    ):
        list(run_units(Run(setup_for(store, tmp_path), 2), tasks))
    assert children() == []


def test_a_bug_in_a_worker_is_a_failed_run_with_its_trace(tmp_path, tasks):
    setup = replace(setup_for(tiny_store(tmp_path / "s"), tmp_path), average=0)
    with pytest.raises(RunFailed, match=r"a worker process failed: Traceback (.|\n)*ZeroDivisionError"):
        list(run_units(Run(setup, 2), tasks))
    assert children() == []


def test_what_the_system_refuses_a_worker_names_its_path(tmp_path, tasks):
    store = tiny_store(tmp_path / "s")
    in_the_way = store.root / paths.LOCKS / paths.shard_lock(0)
    in_the_way.mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        list(run_units(Run(setup_for(store, tmp_path), 2), tasks))
    assert caught.value.filename == str(in_the_way) and "Traceback" not in str(caught.value)
    assert children() == []


def test_a_killed_worker_ends_the_run_soon(tmp_path, tasks):
    store = tiny_store(tmp_path / "s")
    with closing(run_units(Run(setup_for(store, tmp_path), 2), tasks)) as results:
        next(results)
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(RunFailed, match=r"a worker process died \(exit code -9\).*run the same command again"):
            list(results)
        assert time.monotonic() - began < 20
    assert children() == []
    assert Store.open(store.root).done_shards()


def test_closing_early_ends_the_workers(tmp_path, tasks):
    store = tiny_store(tmp_path / "s")
    with closing(run_units(Run(setup_for(store, tmp_path), 2), tasks)) as results:
        next(results)
        assert len(children()) == 2
    assert children() == []


def test_a_unit_held_by_another_run_is_waited_for(tmp_path, tasks):
    store = make_store(tmp_path / "s")
    claim = store.claim(2)
    claim.__enter__()
    shards = []
    for result in run_units(Run(setup_for(store, tmp_path), 1, ConstantEncoder()), tasks):
        shards.append(result.shard)
        if len(shards) == 5:
            claim.__exit__(None, None, None)
    assert shards == [0, 1, 3, 4, 5, 2]


def test_two_runs_on_one_store_share_the_work(tmp_path, tasks):
    """Both end with the whole store there, and every shard was made once."""
    store = tiny_store(tmp_path / "s")
    code = f"""
import pickle, sys
from pathlib import Path
from sm_pipeline.encoders import load_encoder
from sm_pipeline.extraction.engines.local import Run, run_units
from tests.pipeline.extraction.engines.test_local import again
results = again(Path({str(tmp_path)!r}), Path({str(store.root)!r}))
print(sum(not result.skipped for result in results))
""".replace("import pickle, sys\n", "")
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
        for _ in range(2)
    ]
    made = [int(run.communicate(timeout=120)[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum(made) == 6
    assert len(Store.open(store.root)) == 6


def again(folder, store):
    """What each of the two runs does."""
    from sm_pipeline.manifest import read_manifest

    utterances = read_manifest(folder / "m.jsonl").utterances
    units = plan_units(utterances, UnitRule(1.0, max_utterances=1))
    setup = setup_for(Store.open(store), folder)
    return list(run_units(Run(setup), [UnitWork(unit, (utterances[unit.start],)) for unit in units]))


def test_workers_end_when_their_parent_is_killed(tmp_path, tasks):
    store = tiny_store(tmp_path / "s")
    code = f"""
import multiprocessing, os, signal
from pathlib import Path
from sm_pipeline.encoders import load_encoder
from sm_pipeline.extraction.engines.local import Run, run_units
from sm_pipeline.manifest import read_manifest
from sm_pipeline.extraction.plan import UnitRule, plan_units
from sm_pipeline.extraction.unit import UnitWork
from sm_store import Identity, Store
from tests.pipeline.extraction.test_unit import setup_for
if __name__ == "__main__":
    folder = Path({str(tmp_path)!r})
    utterances = read_manifest(folder / "m.jsonl").utterances
    units = plan_units(utterances, UnitRule(1.0, max_utterances=1))
    tasks = [UnitWork(unit, (utterances[unit.start],)) for unit in units]
    results = run_units(Run(setup_for(Store.open({str(store.root)!r}), folder), 2), tasks)
    next(results)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=False, env=environment)
    workers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL
    assert len(workers) == 2
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
