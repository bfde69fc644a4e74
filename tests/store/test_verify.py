"""Every byte against what was written, and what is discarded so that it can be made again."""

from __future__ import annotations

import pytest

from sm_store import Store
from sm_store.verify import discard, verify
from tests.store import building


@pytest.fixture
def path(tmp_path, layout, kind):
    building.build(tmp_path / "s", layout=layout, kind=kind, shards=2)
    return tmp_path / "s"


def test_repair_makes_a_damaged_store_whole_again(path, layout, kind):
    """verify -> discard -> commit what is missing: byte for byte the store it was."""
    whole = building.tree(path)
    store = Store.open(path)
    damaged = [path / store.parts[0].data["features"], path / "targets/llm/catalog/00001.parquet"]
    for file in damaged:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    report = verify(path)
    assert report.bad_shards() == [0] and 1 in report.bad_targets()["llm"]
    discard(path, report)
    store = Store.open(path)
    assert store.done_shards() == {1} and store.done_shards("llm") == set()
    made = building.records(0)
    store.commit(0, made, building.rejects(0), {"llm": building.token_ids(0, made)})
    store.commit_targets("llm", 1, building.token_ids(1, building.records(1)))
    assert verify(path).ok
    if layout == "zarr":  # in a tar, targets embedded later lie in a tar of their own
        again = {name: data for name, data in building.tree(path).items() if name != "targets/llm/ledger/00001.jsonl"}
        again.pop("targets/llm/catalog/00001.parquet"), whole.pop("targets/llm/catalog/00001.parquet")
        again.pop("targets/llm/catalog/_00001.crc32c"), whole.pop("targets/llm/catalog/_00001.crc32c")
        assert again == whole


def test_verify_reads_everything_and_says_how_much(path):
    seen = []
    report = verify(path, progress=seen.append)
    assert report.ok and report.shards == 2 and report.records == 10 and report.leftovers == ()
    assert report.missing == (2,)
    documents = ("store.json", "target.json", ".crc32c")
    assert report.bytes == sum(len(d) for name, d in building.tree(path).items() if not name.endswith(documents))
    assert report.to_json()["bad_shards"] == [] and sum(seen) <= report.bytes


def test_verify_finds_an_id_in_two_shards(tmp_path, layout):
    store = building.Store.create(tmp_path / "s", building.identity(layout=layout))
    store.commit(0, building.records(0), [])
    store.commit(1, building.records(0, count=2), [])
    report = verify(tmp_path / "s")
    assert report.bad_shards() == [0, 1]
    assert {damage.id for damage in report.damages} == {"utt-0.0/a", "utt-0.1/a"}


def test_verify_names_leftovers(tmp_path):
    building.build(tmp_path / "s", kind=None)
    (tmp_path / "s/shards/.00009.tmp-1-ab").mkdir()
    report = verify(tmp_path / "s")
    assert report.ok and report.leftovers == ("shards/.00009.tmp-1-ab",)
