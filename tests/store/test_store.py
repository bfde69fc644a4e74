"""Creating, opening and committing: what is refused, and how it is said."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from sm_store import (
    Fields,
    IdentityMismatch,
    Record,
    Reject,
    Store,
    StoreCorrupt,
    StoreError,
    StoreFormatError,
    document,
)
from tests.store import building


def test_create_makes_an_empty_store_that_opens(tmp_path, layout):
    store = Store.create(tmp_path / "a" / "b.store", building.identity(layout=layout))
    assert Store.open(tmp_path / "a" / "b.store").identity == store.identity == building.identity(layout=layout)
    assert store.target_names == [] and store.done_shards() == set() and store.parts == []


def test_create_refuses_what_is_there(tmp_path):
    Store.create(tmp_path / "s", building.identity())
    with pytest.raises(StoreError, match="there is a store already"):
        Store.create(tmp_path / "s", building.identity())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("precious")
    with pytest.raises(StoreFormatError, match=r"not a store and not empty \(thesis\.doc\)"):
        Store.create(tmp_path / "full", building.identity())
    with pytest.raises(StoreFormatError, match="not a store and not empty"):
        Store.open_or_create(tmp_path / "full", building.identity())
    with pytest.raises(StoreFormatError, match="a file is there"):
        Store.create(tmp_path / "full" / "thesis.doc", building.identity())
    assert (tmp_path / "full" / "thesis.doc").read_text() == "precious"


def test_create_takes_an_empty_folder(tmp_path):
    assert len(Store.create(tmp_path, building.identity())) == 0


def test_open_or_create_continues_the_same_and_refuses_another(tmp_path):
    path = tmp_path / "s"
    Store.open_or_create(path, building.identity()).commit(0, building.records(0), [])
    assert len(Store.open_or_create(path, building.identity(packages={"numpy": "9"}))) == 5
    with pytest.raises(IdentityMismatch, match=r"manifest_sha256: \"cd\" != \"ef\"; split: null != \"dev\""):
        Store.open_or_create(path, building.identity(manifest_sha256="ef", split="dev"))


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


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("identity"),
        lambda data: data.pop("targets"),
        lambda data: data.update(targets=[]),
        lambda data: data.update(identity={"encoder": []}),
        lambda data: data["identity"].update(encoder=7),
        lambda data: data["targets"].update({"../x": data["targets"]["llm"]}),
        lambda data: data["targets"].update({"other": data["targets"]["llm"]}),
        lambda data: data["targets"]["llm"].update(geometry={"kernels": 3}),
    ],
)
def test_well_sealed_nonsense_is_a_format_error(tmp_path, edit):
    building.build(tmp_path / "s", shards=1)
    path = tmp_path / "s" / "store.json"
    data = document.read(path)
    edit(data)
    path.write_bytes(document.encode(data))
    with pytest.raises(StoreFormatError, match=r"store\.json"):
        Store.open(tmp_path / "s")


def test_shard_numbers_beyond_five_digits(tmp_path, layout):
    store = Store.create(tmp_path / "s", building.identity(layout=layout))
    for shard in (123456, 7):
        store.commit(shard, building.records(shard, count=2), [])
    store = Store.open(tmp_path / "s")
    assert store.done_shards() == {7, 123456}
    assert [entry.id for entry in store] == ["utt-7.0/a", "utt-7.1/a", "utt-123456.0/a", "utt-123456.1/a"]


def test_a_record_is_a_plain_value(store):
    first = store[0]
    assert isinstance(first, Record) and first.features.shape == (int(store.frames[0]), building.WIDTH)
