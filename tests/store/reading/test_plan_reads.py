"""Which bytes are read for which records."""

from __future__ import annotations

import numpy as np

from sm_store.reading.plan_reads import Run, plan_reads, shares


def plan(files, offsets, sizes, dests):
    return plan_reads(*(np.asarray(values, np.int64) for values in (files, offsets, sizes, dests)))


def test_neighbours_become_one_read():
    runs = plan([0, 0, 0], [9000, 3000, 10024], [1024, 2048, 1024], [0, 6144, 12288])
    assert runs == [Run(0, 3000, [1], [6144], [2048]), Run(0, 9000, [0, 2], [0, 12288], [1024, 1024])]


def test_files_are_kept_apart_and_empty_records_left_out():
    runs = plan([1, 0, 1, 0], [0, 100, 50, 7], [50, 10, 5, 0], [0, 1, 2, 3])
    assert runs == [Run(0, 100, [1], [1], [10]), Run(1, 0, [0, 2], [0, 2], [50, 5])]


def test_nothing_to_read():
    assert plan([], [], [], []) == [] == plan([0], [3], [0], [0])


def test_the_same_record_twice_is_read_twice():
    assert len(plan([0, 0], [5, 5], [3, 3], [0, 10])) == 2


def test_long_runs_are_cut():
    count = 1300
    runs = plan([0] * count, np.arange(count) * 4, [4] * count, np.arange(count) * 8)
    assert [len(run.wanted) for run in runs] == [512, 512, 276]
    assert [run.offset for run in runs] == [0, 2048, 4096]


def test_every_byte_is_planned_once():
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 9, 200)
    offsets = np.cumsum(sizes) - sizes
    pick = rng.permutation(200)[:150]
    runs = plan(np.zeros(150), offsets[pick], sizes[pick], np.arange(150) * 10)
    got = {
        w: (run.offset + sum(run.sizes[:i]), run.dests[i], run.sizes[i])
        for run in runs
        for i, w in enumerate(run.wanted)
    }
    expected = {i: (offsets[p], i * 10, sizes[p]) for i, p in enumerate(pick) if sizes[p]}
    assert got == expected


def run_of(size):
    return Run(0, 0, [0], [0], [size])


def test_shares_are_all_runs_in_order_and_about_equal():
    mib, rng = 1 << 20, np.random.default_rng(0)
    for _ in range(200):
        runs = [run_of(int(size)) for size in rng.integers(1, 2 * mib, rng.integers(0, 60))]
        most = int(rng.integers(1, 9))
        parts = shares(runs, most)
        assert [run for part in parts for run in part] == runs and len(parts) <= most
        sizes = [sum(run.size for run in part) for part in parts]
        assert len(parts) == 1 or max(sizes) <= sum(sizes) / len(parts) + 4 * mib


def test_little_is_one_share():
    assert shares([], 4) == [[]]
    assert len(shares([run_of(1000)] * 50, 4)) == 1
