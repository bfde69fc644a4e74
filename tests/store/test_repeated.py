"""Each utterance once: in the records, or in the rejects."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store import Fields, Identity, Record, Reject, Store
from sm_store.convert import export, merge
from sm_store.repeated import repeated
from sm_store.status import status
from sm_store.verify import verify


@pytest.mark.parametrize(
    ("records", "rejected", "said"),
    [
        ({0: ["a", "b"], 1: ["c"]}, {0: ["d"], 1: []}, []),
        ({}, {}, []),
        ({0: ["a", "b"], 1: ["b"]}, {}, [(0, "b", 1), (1, "b", 0)]),
        ({0: ["a", "a"]}, {}, [(0, "a", 0), (0, "a", 1)]),
        ({0: ["a"], 7: ["b"]}, {0: ["b"], 7: []}, []),  # retried
        ({0: ["b"], 7: ["a"]}, {7: ["b"]}, [(7, "b", None)]),  # rejected after it was extracted
        ({0: ["b"]}, {0: ["b"]}, [(0, "b", None)]),
        ({0: ["a"]}, {0: ["b"], 1: ["b"]}, [(1, "b", None)]),
    ],
)
def test_what_is_repeated(records, rejected, said):
    assert [(shard, name, row) for shard, name, row, _ in repeated(records, rejected)] == said


def record(name: str) -> Record:
    return Record(name, np.full((20, 4), len(name), np.float16), Fields(text="a", duration=0.8))


@pytest.fixture
def retried(tmp_path):
    """Two planned shards with three rejects, one of which was extracted since as shard 2."""
    identity = Identity(encoder={"width": 4}, plan={"shards": 2})
    store = Store.create(tmp_path / "s", identity)
    store.commit(0, [record("a")], [Reject("b", "audio_missing", "b.wav"), Reject("c", "too_short", "c")])
    store.commit(1, [record("d")], [Reject("e", "too_long", "e")])
    store.commit(2, [record("b")], [])
    return Store.open(tmp_path / "s")


def test_what_was_extracted_since_is_no_reject(retried):
    assert [entry.id for entry in retried.rejects()] == ["c", "e"]
    state = status(retried)
    assert state["rejects"] == {"too_short": 1, "too_long": 1}
    assert state["shards"] == {"done": 2, "planned": 2, "missing": [], "retried": 1}
    assert state["finished"] and state["records"] == 3
    assert verify(retried.root).ok


def test_an_export_is_the_same_in_this_too(retried, tmp_path):
    export(retried.root, tmp_path / "tars", "webdataset")
    export(tmp_path / "tars", tmp_path / "back", "zarr")
    back = Store.open(tmp_path / "back")
    assert [each.id for each in back] == [each.id for each in retried]
    assert back.rejects() == retried.rejects()
    assert verify(back.root).ok


def test_a_merge_puts_the_next_store_behind_retried_shards(retried, tmp_path):
    other = Store.create(tmp_path / "other", retried.identity)
    other.commit(0, [record("x")], [])
    other.commit(1, [record("yy")], [Reject("z", "too_long", "z")])
    merge(tmp_path / "both", [retried.root, other.root])
    both = Store.open(tmp_path / "both")
    assert [each.id for each in both] == ["a", "d", "b", "x", "yy"]
    assert [entry.id for entry in both.rejects()] == ["c", "e", "z"]
    assert status(both)["shards"] == {"done": 5, "planned": 5, "missing": [], "retried": 0}
    assert verify(both.root).ok


def test_verify_names_an_id_that_was_rejected_after_it_was_extracted(tmp_path):
    store = Store.create(tmp_path / "s", Identity(encoder={"width": 4}, plan={"shards": 2}))
    store.commit(0, [record("a")], [])
    store.commit(1, [record("b")], [Reject("a", "too_long", "a")])
    (damage,) = verify(store.root).damages
    assert (damage.file, damage.shard, damage.id) == ("ledger/00001.jsonl", 1, "a")
    assert damage.problem == "this id is rejected here, and in the records of shard 0"
