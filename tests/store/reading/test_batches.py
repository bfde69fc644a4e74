"""Padded batches of features and targets."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sm_store import Store
from tests.store import building
from tests.store.building import slow_targets, written


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_batch_is_the_records_padded_with_zeros(tmp_path, layout, kind, dtype):
    store = building.build(tmp_path / "s", layout=layout, kind=kind, dtype=dtype)
    expected = written(dtype=dtype)
    ids = [entry for shard in range(3) for entry in building.token_ids(shard, building.records(shard))]
    wanted = [14, 0, 7, 7, 1, 13]
    batch = store.read(wanted, targets="llm")
    longest = max(len(expected[i].features) for i in wanted)
    assert batch.features_BTD.shape == (6, longest, building.WIDTH)
    assert batch.indices_B.tolist() == wanted
    assert batch.frames_B.dtype == batch.vectors_B.dtype == batch.tokens_B.dtype == np.int64
    for b, index in enumerate(wanted):
        frames = len(expected[index].features)
        assert batch.frames_B[b] == frames
        assert batch.features_BTD[b, :frames].tobytes() == expected[index].features.tobytes()
        assert not batch.features_BTD[b, frames:].any()
        target = slow_targets(ids[index], frames, dtype)
        assert (batch.vectors_B[b], batch.tokens_B[b]) == (len(target), len(ids[index]))
        assert batch.targets_BUE[b, : len(target)].tobytes() == target.tobytes()
        assert not batch.targets_BUE[b, len(target) :].any()
        assert batch.token_ids[b].dtype == np.int32
        assert batch.token_ids[b].tolist() == ids[index].tolist()


def test_an_empty_batch(store):
    batch = store.read([], "llm")
    assert batch.features_BTD.shape == (0, 0, building.WIDTH)
    assert batch.targets_BUE.shape == (0, 0, building.LLM_WIDTH) and batch.token_ids == []


def test_batches_do_not_disturb_each_other(store):
    """Memory is used again only when nothing refers to it any more."""
    first = store.read([0, 1])
    row = first.features_BTD[0, :3]
    copy = row.copy()
    del first
    for index in range(15):
        store.read([index, index])
    assert row.tobytes() == copy.tobytes()


@pytest.mark.parametrize("compression", [None, "zstd:1", "int8"])
def test_a_reader_holds_no_more_than_the_batches_in_flight(tmp_path, layout, compression):
    store = Store.create(
        tmp_path / "s", building.identity(layout=layout, compression=compression, encoder={"width": 4096})
    )
    for shard in range(4):
        store.commit(shard, building.records(shard, count=30, width=4096), [])
    store, rng = Store.open(tmp_path / "s"), np.random.default_rng(0)
    whole = int(store.frames.sum()) * 8192
    tracemalloc.start()
    largest = 0
    for _ in range(30):
        batch = store.read(rng.permutation(120)[:8])
        largest = max(largest, batch.features_BTD.nbytes)
    peak = tracemalloc.get_traced_memory()[1] + store._view._batches._pools[False].idle_bytes()
    tracemalloc.stop()
    assert peak < 6 * largest + 4e6 < 0.8 * whole  # one in use, three kept for the next, codes and blocks on the way
