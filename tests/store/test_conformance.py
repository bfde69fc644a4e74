"""What every store does, in both layouts, for both kinds of targets, in every dtype."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from sm_store import Fields, Geometry, Record, Store, StoreError, StoreMissing
from sm_store.dtypes import to_storage
from tests.reference.store_reader import read_store
from tests.store import building


def written(shards=3, dtype="float16"):
    return [record for shard in range(shards) for record in building.records(shard, dtype=dtype)]


def slow_targets(ids, frames, dtype="float16"):
    """A record's padded target as the definition says it."""
    table, vectors = building.table(), Geometry().num_vectors(frames)
    rows = [table[token] for token in ids] + [table[building.PAD]] * (vectors - len(ids))
    return to_storage(np.stack(rows) if rows else np.zeros((0, building.LLM_WIDTH)), dtype)


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


def test_record_attributes_are_the_fields(store):
    record = store[1]
    assert (record.text, record.lang, record.speaker) == (record.fields.text, "en", "sp1")
    assert (record.split, record.corpus, record.question, record.answer) == ("dev", "tiny", "what?", "that")
    assert record.translation is None and store[0].translation == {"fr": "bonjour", "de": "guten Tag"}
    assert record.duration == len(record.features) / 25


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


def test_an_empty_batch(store):
    batch = store.read([], "llm")
    assert batch.features_BTD.shape == (0, 0, building.WIDTH)
    assert batch.targets_BUE.shape == (0, 0, building.LLM_WIDTH) and batch.token_ids == []


def test_lengths_and_token_counts(store):
    expected = written()
    assert store.frames.tolist() == store.lengths.tolist() == [len(record.features) for record in expected]
    ids = [entry for shard in range(3) for entry in building.token_ids(shard, building.records(shard))]
    assert store.token_counts("llm").tolist() == [len(entry) for entry in ids]
    assert store.frames.dtype == store.token_counts("llm").dtype == np.int64


def test_select_by_field(store):
    splits = [record.split for record in written()]
    assert store.select(split="train").tolist() == [i for i, s in enumerate(splits) if s == "train"]
    assert store.select(split=None).tolist() == [i for i, s in enumerate(splits) if s is None]
    assert store.select(split="dev", lang="en").tolist() == [1, 6, 11]
    assert store.select(split="nowhere").tolist() == []
    assert store.select().tolist() == list(range(15))
    with pytest.raises(StoreError, match="no catalog column 'splt'"):
        store.select(splt="train")


def test_catalog_columns_are_read_as_asked(store):
    texts = store.columns(["text", "split"])
    assert texts.column_names == ["text", "split"]
    assert texts.column("text").to_pylist() == [record.text for record in written()]
    assert store.catalog.column("row").to_pylist() == list(range(5)) * 3


@pytest.mark.parametrize("index", [15, -16])
def test_positions_beyond_the_end(store, index):
    with pytest.raises(IndexError, match="of a store of 15"):
        store[index]
    with pytest.raises(IndexError, match="of a store of 15"):
        store.read([0, index])


def test_negative_position_counts_from_the_end(store):
    assert store[-1].id == store[14].id


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


def test_reading_while_another_handle_commits(tmp_path, layout):
    writer = building.build(tmp_path / "s", layout=layout, shards=2, kind=None)
    reader = Store.open(tmp_path / "s")
    writer.commit(2, building.records(2), [])
    assert len(reader) == 10 and len(writer) == 15 and len(Store.open(tmp_path / "s")) == 15
    assert reader.read(range(10)).frames_B.tolist() == writer.frames[:10].tolist()
    reader.refresh()
    assert len(reader) == 15


def test_batches_do_not_disturb_each_other(store):
    """Memory is used again only when nothing refers to it any more."""
    first = store.read([0, 1])
    row = first.features_BTD[0, :3]
    copy = row.copy()
    del first
    for index in range(15):
        store.read([index, index])
    assert row.tobytes() == copy.tobytes()
