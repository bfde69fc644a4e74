"""kill -9 at any system call of a writer: readers see whole shards only, and running again ends the same."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from sm_store import Store, StoreBusy, StoreError
from tests.store import building

ROOT = Path(__file__).parents[2]


def kill_every(step, folder, layout, timeout, compression="none"):
    command = [sys.executable, "-m", "tests.store.crash_driver", str(folder), layout, compression, str(step)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    return done.stdout.strip() + done.stderr


def test_killed_at_some_system_calls(tmp_path, layout):
    found = kill_every(23, tmp_path, layout, timeout=200)
    assert found.startswith("survived ") and int(found.split()[1]) > 10, found


@pytest.mark.parametrize("compression", ["zstd:1", "int8"])
def test_killed_at_some_system_calls_of_a_compressed_store(tmp_path, layout, compression):
    found = kill_every(47, tmp_path, layout, timeout=200, compression=compression)
    assert found.startswith("survived ") and int(found.split()[1]) > 4, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_every_system_call(tmp_path, layout):
    found = kill_every(1, tmp_path, layout, timeout=1700)
    assert found.startswith("survived ") and int(found.split()[1]) > 250, found


def test_one_writer_a_shard(tmp_path):
    building.build(tmp_path / "s", kind=None, shards=1)
    first, second = Store.open(tmp_path / "s"), Store.open(tmp_path / "s")
    with first.claim(1) as to_do:
        assert to_do
        with pytest.raises(StoreBusy, match="shard-00001 is being written by another process"):
            second.commit(1, building.records(1), [])
        with pytest.raises(StoreBusy), second.claim(1):
            pass
        second.commit(2, building.records(2), [])
        first.commit(1, building.records(1), [])
    with second.claim(1) as to_do:
        assert not to_do
    with pytest.raises(StoreError, match="shard 1 is committed already"):
        second.commit(1, building.records(1), [])


def extract_all(path, barrier):
    """One of several processes that all want to make the whole store."""
    store = Store.open_or_create(path, building.identity())
    barrier.wait(30)
    for shard in range(3):
        try:
            with store.claim(shard) as to_do:
                if to_do:
                    store.commit(shard, building.records(shard), building.rejects(shard))
        except StoreBusy:
            continue


def test_several_extracts_on_one_store_lose_and_double_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=extract_all, args=(tmp_path / "s", barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    building.write(tmp_path / "one", kind=None)
    assert building.tree(tmp_path / "s") == building.tree(tmp_path / "one")
