"""What can be committed, and what a refused or crashed commit leaves."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from sm_store import (
    Fields,
    Reject,
    Store,
    StoreCorrupt,
    StoreError,
)
from sm_store.errors import RunFailed
from tests.store import building


def record(**changes):
    return replace(building.records(0, count=1)[0], **changes)


NAN = np.full((3, building.WIDTH), np.nan, np.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((3, 5), np.float16)}, r"features are \(3, 5\), not \(frames > 0, 12\)"),
        ({"features": np.zeros((0, building.WIDTH), np.float16)}, "frames > 0"),
        ({"features": np.zeros(building.WIDTH, np.float16)}, "frames > 0"),
        (
            {"features": np.zeros((3, building.WIDTH), np.float32)},
            r"convert with sm_store\.dtypes\.to_storage",
        ),
        ({"features": np.zeros((building.WIDTH, 3), np.float16).T}, "not contiguous"),
        ({"features": NAN}, "not finite; reject it as features_not_finite"),
        ({"id": ""}, "needs an id"),
        ({"id": "\ud800"}, "fields cannot be stored"),
        ({"fields": Fields("a", -1.0)}, "duration of 0 or more"),
        ({"fields": Fields("a", float("nan"))}, "fields cannot be stored"),
        ({"fields": Fields("a", 1.0, lang=b"en")}, "fields cannot be stored"),
    ],
)
def test_records_that_do_not_fit(tmp_path, layout, change, message):
    store = Store.create(tmp_path / "s", building.identity(layout=layout))
    before = building.tree(tmp_path / "s")
    with pytest.raises(StoreError, match=message):
        store.commit(0, [record(id="fine"), record(**change)], [])
    assert building.tree(tmp_path / "s") == before and store.done_shards() == set()


def test_ids_are_unique_in_a_shard(tmp_path):
    store = Store.create(tmp_path / "s", building.identity())
    for records, rejects in [
        ([record(), record()], []),
        ([record()], [Reject(record().id, "too_short", "")]),
    ]:
        with pytest.raises(StoreError, match=r"id 'utt-0\.0/a' comes twice"):
            store.commit(0, records, rejects)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1]], "token ids of 1 records for 2"),
        ([[1], [40]], "record 1: token ids beyond the table of 40 rows"),
        ([[-1], [1]], "record 0: token ids beyond"),
        ([[1], [1] * 99], r"record 1: 99 tokens \+ 1 pad > \d+ vectors"),
    ],
)
def test_token_ids_that_do_not_fit(tmp_path, layout, ids, message):
    store = building.build(tmp_path / "s", layout=layout, shards=1)
    before = building.tree(tmp_path / "s")
    arrays = [np.asarray(entry) for entry in ids]
    with pytest.raises(StoreError, match=message):
        store.commit(1, building.records(1, count=2), [], {"llm": arrays})
    assert building.tree(tmp_path / "s") == before


def test_token_ids_of_an_unknown_set(tmp_path):
    store = building.build(tmp_path / "s", kind=None, shards=1)
    with pytest.raises(StoreError, match=r"no target set 'gpt' \(there: none\)"):
        store.commit(1, [], [], {"gpt": []})


def test_targets_of_a_shard_are_written_once_and_only_for_committed_shards(tmp_path, layout):
    store = building.build(tmp_path / "s", layout=layout, shards=1)
    with pytest.raises(StoreError, match="are there already"):
        store.commit_targets("llm", 0, building.token_ids(0, building.records(0)))
    with pytest.raises(StoreCorrupt, match=r"00007\.crc32c: missing"):
        store.commit_targets("llm", 7, [])


def test_commit_without_targets_then_embed(tmp_path, layout):
    store = building.build(tmp_path / "s", layout=layout, shards=1)
    store.commit(1, building.records(1), [])
    assert store.done_shards("llm") == {0}
    store.commit_targets("llm", 1, building.token_ids(1, building.records(1)))
    whole = building.build(tmp_path / "w", layout=layout, shards=2)
    assert store.read(range(10), "llm").targets_BUE.tobytes() == whole.read(range(10), "llm").targets_BUE.tobytes()


def test_targets_left_by_a_crashed_commit_do_not_outlive_it(tmp_path, layout):
    """Killed between the targets' commit and the shard's; run again without targets."""
    store = building.build(tmp_path / "s", layout=layout, shards=2)
    os.unlink(tmp_path / "s" / "catalog" / "00001.parquet")
    store = Store.open(tmp_path / "s")
    assert store.done_shards("llm") == {0, 1} and store.done_shards() == {0}
    store.commit(1, building.records(5), [])
    assert Store.open(tmp_path / "s").done_shards("llm") == {0}


def test_a_failed_commit_leaves_nothing_behind(tmp_path, layout, monkeypatch):
    """A disk that is full in the middle of a shard."""
    store = building.build(tmp_path / "s", layout=layout, shards=1)
    before = building.tree(tmp_path / "s")
    import os

    real, left = os.writev, [{"zarr": 2, "webdataset": 0}[layout]]  # in the middle of the data

    def full(fd, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "writev", full)
    made = building.records(1)
    with pytest.raises(RunFailed, match="no space left on device; free some"):
        store.commit(1, made, [], {"llm": building.token_ids(1, made)})
    monkeypatch.setattr(os, "writev", real)
    assert building.tree(tmp_path / "s") == before
    store.commit(1, made, [], {"llm": building.token_ids(1, made)})
    assert len(Store.open(tmp_path / "s")) == 10
