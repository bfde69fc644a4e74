"""What every store does, in both layouts, for both kinds of targets, in every dtype."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from sm_store import Fields, Geometry, Record, Store, StoreMissing
from tests.reference.store_reader import read_store
from tests.store import building
from tests.store.building import slow_targets, written


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_records_come_back_bit_for_bit(tmp_path, layout, dtype):
    store = building.build(tmp_path / "s", layout=layout, dtype=dtype)
    expected = written(dtype=dtype)
    assert len(store) == len(expected)
    for index, record in enumerate(expected):
        found = store[index]
        assert found.id == record.id and found.fields == record.fields
        assert found.features.dtype == record.features.dtype
        assert found.features.tobytes() == record.features.tobytes()


def test_dense_and_table_give_the_same_batches(tmp_path, layout):
    dense = building.build(tmp_path / "d", layout=layout, kind="dense").read(range(15), "llm")
    table = building.build(tmp_path / "t", layout=layout, kind="table").read(range(15), "llm")
    assert dense.targets_BUE.tobytes() == table.targets_BUE.tobytes()
    assert dense.targets_BUE.shape == table.targets_BUE.shape


def test_both_layouts_give_the_same_batches(tmp_path):
    first = building.build(tmp_path / "z", layout="zarr").read([3, 1, 9], "llm")
    second = building.build(tmp_path / "w", layout="webdataset").read([3, 1, 9], "llm")
    assert first.features_BTD.tobytes() == second.features_BTD.tobytes()
    assert first.targets_BUE.tobytes() == second.targets_BUE.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_an_independent_reader_agrees(tmp_path, layout, kind, compression, dtype):
    store = building.build(tmp_path / "s", layout=layout, kind=kind, compression=compression, dtype=dtype)
    found = read_store(tmp_path / "s")
    assert list(found) == store.catalog.column("id").to_pylist()
    for index, (name, entry) in enumerate(found.items()):
        record, batch = store[index], store.read([index], "llm")
        assert record.id == name
        assert entry["features"].tobytes() == record.features.tobytes()
        translation = entry["fields"].pop("translation")
        assert Fields(**entry["fields"], translation=dict(translation) if translation else None) == record.fields
        rows, ids = entry["targets"]["llm"]
        assert rows.tobytes() == batch.targets_BUE[0].tobytes()
        assert ids.tolist() == batch.token_ids[0].tolist()


def test_the_same_records_make_the_same_bytes(tmp_path, layout, kind):
    building.build(tmp_path / "a", layout=layout, kind=kind)
    building.write(tmp_path / "b", layout=layout, kind=kind)
    assert building.tree(tmp_path / "a") == building.tree(tmp_path / "b")


def test_shards_may_be_committed_in_any_order(tmp_path, layout):
    building.build(tmp_path / "a", layout=layout, kind=None)
    store = Store.create(tmp_path / "b", building.identity(layout=layout))
    for shard in (2, 0, 1):
        store.commit(shard, building.records(shard), building.rejects(shard))
    assert building.tree(tmp_path / "a") == building.tree(tmp_path / "b")
    assert [record.id for record in store] == [record.id for record in Store.open(tmp_path / "a")]


def test_an_empty_store_and_an_empty_shard(tmp_path, layout, kind):
    store = Store.create(tmp_path / "s", building.identity(layout=layout))
    assert len(store) == 0 and list(store) == [] and store.frames.tolist() == []
    assert store.catalog.num_rows == 0 and store.select(split="train").tolist() == []
    store.add_target_set(building.target_spec(kind=kind), building.table(), building.TOKENIZER)
    store.commit(0, [], building.rejects(0), {"llm": []})
    store.commit(1, building.records(1), [], {"llm": building.token_ids(1, building.records(1))})
    store.commit(2, [], [], {"llm": []})
    store = Store.open(tmp_path / "s")
    assert len(store) == 5 and store.done_shards() == {0, 1, 2}
    assert [entry.id for entry in store.rejects()] == ["bad-0"]
    assert store.read(range(5), "llm").tokens_B.tolist() == store.token_counts("llm").tolist()
    assert store[4].id == building.records(1)[4].id


def test_lengths_and_token_counts(store):
    expected = written()
    assert store.frames.tolist() == store.lengths.tolist() == [len(record.features) for record in expected]
    ids = [entry for shard in range(3) for entry in building.token_ids(shard, building.records(shard))]
    assert store.token_counts("llm").tolist() == [len(entry) for entry in ids]
    assert store.frames.dtype == store.token_counts("llm").dtype == np.int64


def test_a_store_crosses_processes_by_its_path(store):
    again = copy.copy(store)  # by the same protocol as pickle
    assert again.identity == store.identity
    assert again.read([2]).features_BTD.tobytes() == store.read([2]).features_BTD.tobytes()


@pytest.mark.parametrize("checksums", ["always", "first-epoch", "never"])
def test_every_policy_reads_the_same(tmp_path, layout, checksums):
    building.build(tmp_path / "s", layout=layout)
    store = Store.open(tmp_path / "s", checksums=checksums)
    for _ in range(2):
        assert store.read([4, 2]).features_BTD[1, :9].tobytes() == written()[2].features[:9].tobytes()


def test_targets_of_another_llm_are_added_and_dropped_without_touching_features(tmp_path, layout, kind):
    path = tmp_path / "s"
    store = building.build(path, layout=layout)
    before = building.tree(path)
    spec = building.target_spec("other-1.5", kind)
    store.add_target_set(spec, building.table(), building.TOKENIZER)
    with pytest.raises(StoreMissing, match="lacks 3 of 3 shards"):
        store.read([0], "other-1.5")
    for shard in range(3):
        assert store.commit_targets("other-1.5", shard, building.token_ids(shard, building.records(shard))) == []
    assert store.target_names == ["llm", "other-1.5"] and store.done_shards("other-1.5") == {0, 1, 2}
    one, two = store.read(range(15), "llm"), Store.open(path).read(range(15), "other-1.5")
    assert one.targets_BUE.tobytes() == two.targets_BUE.tobytes()
    assert one.tokens_B.tolist() == two.tokens_B.tolist()
    assert {name: data for name, data in building.tree(path).items() if name in before and name != "store.json"} == {
        name: data for name, data in before.items() if name != "store.json"
    }
    store.drop_target_set("other-1.5")
    assert building.tree(path) == before
    assert Store.open(path).target_names == ["llm"]
    with pytest.raises(StoreMissing, match=r"no target set 'other-1\.5'"):
        store.read([0], "other-1.5")


def test_embedding_leaves_out_texts_that_do_not_fit(tmp_path, layout, kind):
    store = building.build(tmp_path / "s", layout=layout, shards=1, kind=None)
    store.add_target_set(building.target_spec(kind=kind), building.table(), building.TOKENIZER)
    room = Geometry().num_vectors(store.frames)
    ids = [np.ones(int(n) - 1, np.int32) for n in room]
    ids[3] = np.ones(int(room[3]), np.int32)
    left_out = store.commit_targets("llm", 0, ids)
    assert [(reject.id, reject.reason) for reject in left_out] == [(store[3].id, "text_too_long")]
    assert store.token_counts("llm").tolist() == [0 if i == 3 else int(n) - 1 for i, n in enumerate(room)]
    batch = store.read([3], "llm")
    assert batch.targets_BUE.tobytes() == slow_targets([], int(store.frames[3])).tobytes()
    ledger = (tmp_path / "s" / "targets" / "llm" / "ledger" / "00000.jsonl").read_text()
    assert store[3].id in ledger and "text_too_long" in ledger


def test_a_record_too_short_for_any_vector_has_no_target(tmp_path, layout, kind):
    store = Store.create(tmp_path / "s", building.identity(layout=layout))
    store.add_target_set(building.target_spec(kind=kind), building.table(), building.TOKENIZER)
    short = Record("short", np.ones((1, building.WIDTH), np.float16), Fields("a", 0.04))
    store.commit(0, [short], [], {})
    assert Geometry().num_vectors(1) == 0
    assert [entry.reason for entry in store.commit_targets("llm", 0, [np.asarray([1])])] == ["text_too_long"]
    batch = store.read([0], "llm")
    assert batch.targets_BUE.shape == (1, 0, building.LLM_WIDTH) and batch.tokens_B.tolist() == [0]
