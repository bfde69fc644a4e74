"""Export and merge: bit for bit the same content, there and back, interrupted and continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from sm_store import IdentityMismatch, Store, StoreCorrupt, StoreError, StoreMissing
from sm_store.convert import export, merge
from sm_store.errors import ConfigError
from sm_store.status import status
from sm_store.verify import verify
from tests.store import building

OTHER = {"zarr": "webdataset", "webdataset": "zarr"}


def add_late_targets(path, kind="table"):
    """A target set added after the extraction, with a record whose text does not fit."""
    store = Store.open(path)
    store.add_target_set(
        building.target_spec("late", kind=kind, dtype=store.identity.dtype), building.table(), building.TOKENIZER
    )
    for shard in sorted(store.done_shards()):
        ids = building.token_ids(shard, building.records(shard))
        ids[2] = np.arange(35, dtype=np.int32)  # more than any record's vectors
        assert len(store.commit_targets("late", shard, ids)) == 1


def contents(path):
    """Everything in a store but where it lies in files."""
    store = Store.open(path)
    records = [(each.id, each.features.tobytes(), each.fields) for each in store]
    targets = {}
    for name in store.target_names:
        batch = store.read(range(len(store)), name)
        ids = [entry.tolist() for entry in batch.token_ids]
        targets[name] = (
            store.targets(name).spec,
            batch.targets_BUE.tobytes(),
            ids,
            store.targets(name).table.tobytes(),
        )
    return records, store.rejects(), targets, store.starts.tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_there_and_back_is_the_same_store_byte_for_byte(tmp_path, layout, kind, dtype):
    building.build(tmp_path / "s", layout=layout, kind=kind, dtype=dtype)
    add_late_targets(tmp_path / "s", kind)
    there = export(tmp_path / "s", tmp_path / "there", OTHER[layout])
    export(tmp_path / "there", tmp_path / "back", layout)
    assert building.tree(tmp_path / "back") == building.tree(tmp_path / "s")
    assert contents(tmp_path / "there") == contents(tmp_path / "s")
    assert verify(tmp_path / "there").ok
    assert Store.open(tmp_path / "there").identity.layout == OTHER[layout] == there.layout
    assert (there.records, there.rejected, there.shards, there.copied) == (15, 3, 3, 3)


def test_again_it_does_nothing(tmp_path):
    building.build(tmp_path / "s")
    export(tmp_path / "s", tmp_path / "out", "webdataset")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = export(tmp_path / "s", tmp_path / "out", "webdataset")
    assert again.copied == 0 and "nothing to do" in again.in_words()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_an_unfinished_store_is_exported_as_far_as_it_goes_and_continued(tmp_path):
    store = building.build(tmp_path / "s", shards=2, kind=None)
    first = export(tmp_path / "s", tmp_path / "out", "webdataset")
    assert (first.copied, first.missing) == (2, 1) and "run again" in first.in_words()
    store.commit(2, building.records(2), building.rejects(2))
    second = export(tmp_path / "s", tmp_path / "out", "webdataset")
    assert (second.copied, second.missing) == (1, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "s")


def test_targets_added_to_the_source_later_come_along_when_run_again(tmp_path):
    building.build(tmp_path / "s")
    export(tmp_path / "s", tmp_path / "out", "webdataset")
    add_late_targets(tmp_path / "s")
    export(tmp_path / "s", tmp_path / "out", "webdataset")
    assert contents(tmp_path / "out") == contents(tmp_path / "s")


def test_a_store_at_out_that_is_another_is_refused_with_the_difference(tmp_path):
    building.build(tmp_path / "s")
    building.build(tmp_path / "out", layout="webdataset", manifest_sha256="ef")
    with pytest.raises(IdentityMismatch, match="manifest_sha256"):
        export(tmp_path / "s", tmp_path / "out", "webdataset")


def test_bad_requests(tmp_path):
    building.build(tmp_path / "s")
    with pytest.raises(ConfigError, match="is the source itself"):
        export(tmp_path / "s", tmp_path / "." / "s", "zarr")
    with pytest.raises(StoreMissing, match="no store there"):
        export(tmp_path / "nothing", tmp_path / "out", "zarr")
    with pytest.raises(ConfigError, match="layout 'arrow'"):
        export(tmp_path / "s", tmp_path / "out", "arrow")
    with pytest.raises(ConfigError, match="two stores or more"):
        merge(tmp_path / "out", [tmp_path / "s"])
    assert not (tmp_path / "out").exists()


def test_targets_that_lack_shards_must_be_finished_first(tmp_path):
    store = building.build(tmp_path / "s", kind=None)
    store.add_target_set(building.target_spec(), building.table(), building.TOKENIZER)
    store.commit_targets("llm", 0, building.token_ids(0, building.records(0)))
    with pytest.raises(StoreMissing, match=r"'llm' lacks 2 shards; run `sm-pipeline embed`"):
        export(tmp_path / "s", tmp_path / "out", "webdataset")


def test_damaged_bytes_are_not_copied(tmp_path, layout):
    store = building.build(tmp_path / "s", layout=layout)
    file = tmp_path / "s" / store.parts[1].data["features"]
    data = bytearray(file.read_bytes())
    data[store.columns(["offset"])["offset"][7].as_py() + 5] ^= 1  # record 2 of shard 1
    file.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="shard 1 record 2"):
        export(tmp_path / "s", tmp_path / "out", OTHER[layout])
    assert Store.open(tmp_path / "out").done_shards() == {0}


def slow_export(source, out):
    export(source, out, "webdataset", lambda _: time.sleep(0.2))


def test_killed_and_run_again_it_ends_the_same(tmp_path):
    building.build(tmp_path / "s")
    export(tmp_path / "s", tmp_path / "undisturbed", "webdataset")
    running = multiprocessing.get_context("spawn").Process(
        target=slow_export, args=(tmp_path / "s", tmp_path / "killed")
    )
    running.start()
    until = time.monotonic() + 60
    while not list((tmp_path / "killed/catalog").glob("0*.parquet")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    assert len(Store.open(tmp_path / "killed").done_shards()) < 3
    export(tmp_path / "s", tmp_path / "killed", "webdataset")
    assert building.tree(tmp_path / "killed") == building.tree(tmp_path / "undisturbed")


def build_other(path, first=3, shards=2, kind="dense", name="llm", **changes):
    """A store of other utterances: shards 0, 1, ... hold what `building` calls shard `first`, ..."""
    store = Store.create(path, building.identity(manifest_sha256="ef", plan={"shards": shards}, **changes))
    store.add_target_set(building.target_spec(name, kind=kind), building.table(), building.TOKENIZER)
    for shard in range(shards):
        made = building.records(shard + first)
        ids = building.token_ids(shard + first, made)
        store.commit(shard, made, building.rejects(shard + first), {name: ids})


@pytest.mark.parametrize("out", [None, "zarr", "webdataset"])
def test_merged_stores_follow_each_other(tmp_path, layout, out):
    building.build(tmp_path / "a", layout=layout)
    build_other(tmp_path / "b", layout=OTHER[layout])
    made = merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], out)
    assert made.layout == (out or layout) and (made.records, made.rejected, made.shards) == (25, 5, 5)
    first, second, whole = (contents(tmp_path / name) for name in ("a", "b", "all"))
    assert whole[0] == first[0] + second[0]
    assert whole[1] == first[1] + second[1]
    assert whole[2]["llm"][2] == first[2]["llm"][2] + second[2]["llm"][2]
    assert verify(tmp_path / "all").ok
    identity = Store.open(tmp_path / "all").identity
    assert identity.plan["shards"] == 5
    assert [origin["manifest_sha256"] for origin in identity.plan["merged"]] == ["cd", "ef"]
    assert status(Store.open(tmp_path / "all"))["finished"]


def test_merging_again_does_nothing_and_another_order_is_another_store(tmp_path):
    building.build(tmp_path / "a")
    build_other(tmp_path / "b")
    merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"]).copied == 0
    with pytest.raises(IdentityMismatch, match=r"plan\.merged"):
        merge(tmp_path / "all", [tmp_path / "b", tmp_path / "a"])


def test_an_unfinished_source_keeps_its_places(tmp_path):
    building.build(tmp_path / "a", shards=2)
    build_other(tmp_path / "b")
    made = merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert Store.open(tmp_path / "all").done_shards() == {0, 1, 3, 4} and made.missing == 1
    source, rows = Store.open(tmp_path / "a"), building.records(2)
    source.commit(2, rows, building.rejects(2), {"llm": building.token_ids(2, rows)})
    assert merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"]).missing == 0
    assert contents(tmp_path / "all")[0] == contents(tmp_path / "a")[0] + contents(tmp_path / "b")[0]


@pytest.mark.parametrize("first", [1, 2])
def test_an_utterance_in_two_of_them_is_refused(tmp_path, first):
    """Also where one of the two rejected it."""
    building.build(tmp_path / "a")
    build_other(tmp_path / "b", first=first)
    with pytest.raises(StoreError, match=r"id '.*' is in .*a and .*b \(\d+ such ids\)"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "all").exists()


def test_stores_made_differently_are_refused(tmp_path):
    building.build(tmp_path / "a")
    build_other(tmp_path / "b", average=4)
    with pytest.raises(IdentityMismatch, match="average: 2 != 4"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])


def test_target_sets_must_be_in_all_or_be_chosen(tmp_path):
    building.build(tmp_path / "a")
    add_late_targets(tmp_path / "a")
    build_other(tmp_path / "b")
    with pytest.raises(StoreMissing, match=r"no target set 'late', which another store has.*--target"):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], targets=["llm"])
    assert Store.open(tmp_path / "all").target_names == ["llm"]
    merge(tmp_path / "bare", [tmp_path / "a", tmp_path / "b"], targets=[])
    assert Store.open(tmp_path / "bare").target_names == []


def test_target_sets_left_out_at_first_come_along_when_run_again(tmp_path, layout):
    """Also those that the sources got with their features."""
    building.build(tmp_path / "a", layout=layout)
    build_other(tmp_path / "b", layout=layout)
    sources = [tmp_path / "a", tmp_path / "b"]
    merge(tmp_path / "all", sources, targets=[])
    merge(tmp_path / "all", sources)
    merge(tmp_path / "at-once", sources)
    assert status(Store.open(tmp_path / "all"))["targets"]["llm"]["missing"] == []
    assert contents(tmp_path / "all") == contents(tmp_path / "at-once")
    assert verify(tmp_path / "all").ok


def test_a_target_set_made_with_the_features_of_one_and_added_to_another(tmp_path, layout):
    building.build(tmp_path / "a", layout=layout)
    add_late_targets(tmp_path / "a")
    build_other(tmp_path / "b", layout=layout, name="late", kind="table")
    merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"], OTHER[layout], targets=["late"])
    first, second, whole = (contents(tmp_path / name) for name in ("a", "b", "all"))
    assert whole[2]["late"][2] == first[2]["late"][2] + second[2]["late"][2]
    assert [(tmp_path / f"all/targets/late/ledger/0000{shard}.jsonl").exists() for shard in range(5)] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert verify(tmp_path / "all").ok


def test_target_sets_that_differ_are_refused(tmp_path):
    building.build(tmp_path / "a")
    build_other(tmp_path / "b", kind="table")
    with pytest.raises(IdentityMismatch, match=r"target sets 'llm' differ: kind: .dense. != .table."):
        merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
