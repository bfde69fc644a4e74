"""The index over many catalog parts: the same store with and without it, and never a wrong answer from a stale one."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store import Store, StoreCorrupt, StoreFormatError, paths
from sm_store import index as index_module
from sm_store.index import drop_index, indexed_columns, read_index
from sm_store.verify import discard, verify
from tests.store import building

COLUMNS = ["frames", "duration", "lang", "speaker", "split", "corpus"]


@pytest.fixture(autouse=True)
def _few_shards_are_many(monkeypatch):
    monkeypatch.setattr(index_module, "WORTH", 2)


def extend(store, shards):
    """Commit further shards of the same store."""
    for shard in shards:
        made = building.records(shard)
        store.commit(shard, made, building.rejects(shard), {"llm": building.token_ids(shard, made)})


def contents(store):
    """Everything that the index could get wrong."""
    batch = store.read(range(len(store)), "llm")
    arrays = [batch.features_BTD, batch.frames_B, batch.targets_BUE, batch.vectors_B, batch.tokens_B]
    fields = [(record.id, record.fields) for record in store]
    return [each.tobytes() for each in arrays], fields, store.columns(COLUMNS).to_pydict(), store.starts.tolist()


def same(left, right):
    return contents(left) == contents(right)


def test_with_and_without_it_the_store_is_the_same(tmp_path, layout, kind):
    store = building.build(tmp_path / "s", layout=layout, kind=kind)
    before = contents(store)
    store.compact()
    assert (tmp_path / "s" / paths.index()).exists() and (tmp_path / "s" / paths.index("llm")).exists()
    opened = Store.open(tmp_path / "s")
    assert contents(opened) == before
    assert [part.to_json() for part in opened.parts] == [part.to_json() for part in store.parts]
    assert opened.rejects() == store.rejects()
    assert opened.select(split="train").tolist() == store.select(split="train").tolist()
    assert verify(tmp_path / "s").ok


def test_opening_reads_no_part_that_is_in_it(tmp_path):
    building.build(tmp_path / "s").compact()
    for part in (tmp_path / "s/catalog").glob("0*.parquet"):
        part.write_bytes(b"")
    store = Store.open(tmp_path / "s")
    assert len(store) == 15
    assert store.columns(["split"]).num_rows == 15
    with pytest.raises(StoreCorrupt, match=r"00000\.parquet"):
        store.columns(["text"])


@pytest.mark.parametrize("first", [(0, 1, 2), (1, 3), (4, 2)])
def test_shards_committed_after_it_are_read_from_their_parts(tmp_path, first):
    """Also those that lie between the indexed ones: machines finish in any order."""
    store = Store.create(tmp_path / "s", building.identity(plan={"shards": 6}))
    store.add_target_set(building.target_spec(), building.table(), building.TOKENIZER)
    extend(store, first)
    store.compact()
    extend(store, sorted(set(range(6)) - set(first)))
    whole = Store.open(tmp_path / "s")
    drop_index(tmp_path / "s")
    drop_index(tmp_path / "s", "llm")
    assert same(whole, Store.open(tmp_path / "s"))


def test_compacting_again_takes_in_what_is_new_and_then_nothing(tmp_path):
    store = building.build(tmp_path / "s")
    store.compact()
    extend(store, [3])
    store.compact()
    path = tmp_path / "s" / paths.index()
    made = path.stat().st_mtime_ns
    index = read_index(tmp_path / "s", store.identity.sha256())
    assert [part.shard for part in index.parts] == [0, 1, 2, 3]
    store.compact()
    assert path.stat().st_mtime_ns == made


def test_few_shards_need_none(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "WORTH", 4)
    building.build(tmp_path / "s").compact()
    assert not (tmp_path / "s" / paths.index()).exists()


def test_the_same_shards_give_the_same_index(tmp_path):
    for name in ("a", "b"):
        building.build(tmp_path / name).compact()
    assert building.tree(tmp_path / "a") == building.tree(tmp_path / "b")


def test_every_flipped_byte_is_noticed(tmp_path):
    building.build(tmp_path / "s").compact()
    path = tmp_path / "s" / paths.index()
    good = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(good), 40).tolist():
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(StoreCorrupt, match=r"_index\.arrow"):
            Store.open(tmp_path / "s")
    path.write_bytes(good[:-9])
    with pytest.raises(StoreCorrupt, match=r"_index\.arrow"):
        Store.open(tmp_path / "s")


def test_one_of_another_store_is_refused(tmp_path):
    building.build(tmp_path / "s").compact()
    building.build(tmp_path / "other", manifest_sha256="ef").compact()
    for name in ("_index.arrow", "_index.crc32c"):
        (tmp_path / "s/catalog" / name).write_bytes((tmp_path / "other/catalog" / name).read_bytes())
    with pytest.raises(StoreFormatError, match="another store"):
        Store.open(tmp_path / "s")


def test_it_counts_for_nothing_once_a_part_is_gone(tmp_path):
    building.build(tmp_path / "s").compact()
    for name in ("00001.parquet", "_00001.crc32c"):
        (tmp_path / "s/catalog" / name).unlink()
    store = Store.open(tmp_path / "s")
    assert store.done_shards() == {0, 2} and len(store) == 10


def test_verify_names_a_damaged_one_and_discard_removes_it(tmp_path):
    store = building.build(tmp_path / "s")
    store.compact()
    path = tmp_path / "s" / paths.index("llm")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    report = verify(tmp_path / "s")
    assert [damage.file for damage in report.damages] == ["targets/llm/catalog/_index.arrow"]
    discard(tmp_path / "s", report)
    assert verify(tmp_path / "s").ok
    assert same(Store.open(tmp_path / "s"), store)


def test_verify_holds_it_against_the_parts(tmp_path):
    """An intact index of parts that were replaced by others, equally intact."""
    building.build(tmp_path / "s").compact()
    other = Store.create(tmp_path / "other", building.identity())
    extend_without_targets(other, shards=(0, 1, 2), shift=7)
    for name in ("00001.parquet", "_00001.crc32c"):
        (tmp_path / "s/catalog" / name).write_bytes((tmp_path / "other/catalog" / name).read_bytes())
    found = [str(damage) for damage in verify(tmp_path / "s").damages]
    assert any("_index.arrow" in line and "differs from the part of shard 1" in line for line in found)


def extend_without_targets(store, shards, shift):
    for shard in shards:
        store.commit(shard, building.records(shard + shift), [])


def test_discarding_a_shard_removes_it_first(tmp_path):
    store = building.build(tmp_path / "s")
    store.compact()
    data = next((tmp_path / "s/shards/00001/features/c").rglob("0"))
    file = data if data.is_file() else data / "0"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    discard(tmp_path / "s", verify(tmp_path / "s"))
    assert not (tmp_path / "s" / paths.index()).exists()
    assert Store.open(tmp_path / "s").done_shards() == {0, 2}


def test_ids_and_texts_are_never_in_it():
    from sm_store.catalog import SCHEMA

    assert not {"id", "text", "question", "answer", "translation"} & set(indexed_columns(SCHEMA))
    assert {"frames", "offset", "crc32c", "split"} <= set(indexed_columns(SCHEMA))
