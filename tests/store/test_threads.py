"""Threads of one batch: all have ended when a batch is given out, or given up."""

from __future__ import annotations

import multiprocessing
import threading
import time

import numpy as np
import pytest

from sm_store import StoreCorrupt
from sm_store.threads import THREADS, in_threads
from tests.store import building


def test_all_tasks_have_run(threads=5):
    done = []
    in_threads([lambda number=number: done.append(number) for number in range(threads)])
    assert sorted(done) == list(range(threads))
    in_threads([])


@pytest.mark.parametrize("bad", [0, 2])
def test_an_error_waits_for_the_others(bad):
    ended = []

    def task(number):
        if number == bad:
            raise ValueError(number)
        time.sleep(0.1)
        ended.append(number)

    with pytest.raises(ValueError, match=str(bad)):
        in_threads([lambda number=number: task(number) for number in range(3)])
    assert len(ended) == 2


def read_in_child(path, good):
    store = building.Store.open(path)
    good.put(store.read(range(15)).features_BTD.tobytes())


def test_a_forked_process_has_threads_of_its_own(tmp_path):
    store = building.build(tmp_path / "s", compression="zstd:1")
    expected = store.read(range(15)).features_BTD.tobytes()  # the threads are there before the fork
    fork = multiprocessing.get_context("fork")
    good = fork.Queue()
    child = fork.Process(target=read_in_child, args=(tmp_path / "s", good))
    child.start()
    assert good.get(timeout=30) == expected
    child.join(30)
    assert child.exitcode == 0


def test_many_callers_at_once(tmp_path):
    store = building.build(tmp_path / "s", compression="zstd:1")
    expected = store.read(range(15)).features_BTD.tobytes()
    wrong = []

    def read():
        for _ in range(20):
            if store.read(range(15)).features_BTD.tobytes() != expected:
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(2 * THREADS + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_large_batches_are_read_by_several_threads_and_right(tmp_path):
    store = building.Store.create(tmp_path / "s", building.identity(encoder={"width": 8192}))
    made = building.records(0, count=16, width=8192)
    store.commit(0, made, [])
    assert sum(record.features.nbytes for record in made) > 4 << 20
    order = np.random.default_rng(0).permutation(16)
    batch = store.read(order)
    for row, index in enumerate(order.tolist()):
        assert batch.features_BTD[row, : batch.frames_B[row]].tobytes() == made[index].features.tobytes()
    path = tmp_path / "s" / store.parts[0].data["features"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="shard 0 record"):
        store.read(order)
