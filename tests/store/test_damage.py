"""Every kind of damage to every file of a store is noticed before a wrong number is used, and named by
verify."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from sm_store import Store, StoreCorrupt, StoreError, StoreFormatError, StoreMissing
from sm_store.status import status
from sm_store.verify import discard, verify
from tests.store import building

FLIPS = 120


@pytest.fixture
def path(tmp_path, layout, kind):
    building.build(tmp_path / "s", layout=layout, kind=kind, shards=2)
    return tmp_path / "s"


def everything(path):
    """All that a user can get out of a store, as bytes."""
    store = Store.open(path)
    batch = store.read(range(len(store)), "llm")
    target = store.targets("llm")
    target.check_tokenizer()
    arrays = [
        batch.features_BTD,
        batch.frames_B,
        batch.targets_BUE,
        batch.tokens_B,
        *batch.token_ids,
        target.table,
    ]
    return [array.tobytes() for array in arrays], store.catalog.to_pylist(), store.rejects(), store.identity


def notices(path, expected):
    """Whether using the store raises one of our errors; anything returned must be right."""
    try:
        assert everything(path) == expected
    except StoreError:
        return True
    return False


def check_noticed(path, expected, what):
    """After some damage: reading is right or refuses, and verify names a damage."""
    notices(path, expected)
    try:
        report = verify(path)
    except StoreError:
        return
    assert not report.ok, what


def test_flipped_bits(path):
    expected = everything(path)
    files = sorted(name for name in building.tree(path) if not name.startswith(".locks"))
    rng = np.random.default_rng(1)
    used = 0
    for number in range(FLIPS):
        name = files[number % len(files)]
        data = bytearray((path / name).read_bytes())
        if not data:
            continue
        position, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[position] ^= 1 << bit
        (path / name).write_bytes(data)
        check_noticed(path, expected, f"{name} byte {position} bit {bit}")
        data[position] ^= 1 << bit
        (path / name).write_bytes(data)
        used += 1
    assert used > FLIPS // 2 and not notices(path, expected) and verify(path).ok


def test_truncated_extended_emptied_and_deleted_files(path):
    expected = everything(path)
    for name, data in building.tree(path).items():
        shorter = [data[: len(data) // 2], data[:-1], b""] if data else []
        for changed in [*shorter, data + b"\0", None]:
            if changed is None:
                (path / name).unlink()
            else:
                (path / name).write_bytes(changed)
            # A deleted commit mark is a shard that was never committed: missing, not damaged (see below).
            if changed is not None or not name.endswith(".parquet"):
                check_noticed(path, expected, name)
            (path / name).write_bytes(data)
    assert verify(path).ok


def test_a_deleted_commit_mark_is_a_missing_shard(path):
    (path / "targets/llm/catalog/00001.parquet").unlink()
    with pytest.raises(StoreMissing, match="lacks 1 of 2 shards"):
        Store.open(path).read([0], "llm")
    assert verify(path).missing_targets == {"llm": (1,)}
    (path / "catalog/00001.parquet").unlink()
    assert status(Store.open(path))["shards"]["missing"] == [1, 2]
    assert verify(path).missing == (1, 2)


def test_swapped_files(path):
    expected = everything(path)
    names = sorted(building.tree(path))
    pairs = [(n, n.replace("00000", "00001")) for n in names if "00000" in n]
    assert pairs
    for one, two in pairs:
        first, second = (path / one).read_bytes(), (path / two).read_bytes()
        if first == second:
            continue
        (path / one).write_bytes(second)
        (path / two).write_bytes(first)
        check_noticed(path, expected, one)
        (path / one).write_bytes(first)
        (path / two).write_bytes(second)


def test_a_whole_shard_from_another_store(tmp_path, layout):
    """Files that agree with each other, but belong to another store."""
    building.build(tmp_path / "a", layout=layout, kind=None)
    building.build(tmp_path / "b", layout=layout, kind=None, average=4)
    for name in building.tree(tmp_path / "b"):
        if "00001" in name:
            shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(StoreFormatError, match="shard 1 belongs to another store"):
        Store.open(tmp_path / "a")
    assert verify(tmp_path / "a").bad_shards() == [1]


def test_a_flipped_feature_names_shard_and_record(path, layout):
    store = Store.open(path)
    part = store.parts[1]
    file = path / part.data["features"]
    offset = store.catalog.column("offset").to_pylist()[5 + 2]
    data = bytearray(file.read_bytes())
    data[offset + 3] ^= 4
    file.write_bytes(data)
    store = Store.open(path)
    store.read([0, 6, 8], "llm")
    with pytest.raises(StoreCorrupt, match=r"shard 1 record 2 \(features\): bytes differ"):
        store.read([6, 7, 8])
    report = verify(path)
    named = [damage for damage in report.damages if damage.record is not None]
    assert [(d.shard, d.record, d.id, d.target) for d in named] == [(1, 2, "utt-1.2/a", None)]
    assert "shard 1 record 2 'utt-1.2/a'" in str(named[0]) and report.bad_shards() == [1]


def test_never_means_never_and_first_epoch_means_once(tmp_path, layout):
    path = tmp_path / "s"
    store = building.build(path, layout=layout, kind=None)
    file, offset = path / store.parts[0].data["features"], store.catalog.column("offset").to_pylist()[0]
    once = Store.open(path, checksums="first-epoch")
    good = once.read([0]).features_BTD.copy()
    with file.open("r+b") as out:
        out.seek(offset)
        out.write(b"\x12")
    assert Store.open(path, checksums="never").read([0]).features_BTD.tobytes() != good.tobytes()
    assert once.read([0]).features_BTD.tobytes() != good.tobytes()
    for policy in ("always", "first-epoch"):
        with pytest.raises(StoreCorrupt, match="shard 0 record 0"):
            Store.open(path, checksums=policy).read([0])


def test_a_file_cut_while_the_store_is_open(tmp_path, layout):
    path = tmp_path / "s"
    store = building.build(path, layout=layout, kind=None)
    store.read([0])
    offset = store.catalog.column("offset").to_pylist()[4]
    os.truncate(path / store.parts[0].data["features"], offset + 5)
    with pytest.raises(StoreCorrupt, match=r"shard 0 record 4 \(features\): the file ends inside it"):
        store.read([4])


def test_missing_data_is_said_at_opening(path):
    store = Store.open(path)
    (path / store.parts[0].data["features"]).unlink()
    with pytest.raises(StoreCorrupt, match=r"shard 0 \(features\): .*missing"):
        Store.open(path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", StoreFormatError, "not a document"),
        (b"{", StoreFormatError, "not a document"),
        (b"[]", StoreFormatError, "not a document"),
        (b'{"format": "zip"}', StoreFormatError, "not a document"),
        (
            b'{"format": "speechmapper-store", "version": 99}',
            StoreFormatError,
            "version 99; this release",
        ),
        (b'{"format": "speechmapper-store", "version": 1}', StoreCorrupt, "edited or damaged"),
        (b"[" * 100_000, StoreFormatError, "not a document"),
    ],
)
def test_foreign_and_older_documents(tmp_path, content, error, message):
    building.build(tmp_path / "s", kind=None)
    (tmp_path / "s" / "store.json").write_bytes(content)
    with pytest.raises(error, match=message):
        Store.open(tmp_path / "s")
    with pytest.raises(error, match=message):
        verify(tmp_path / "s")


def test_no_store_there(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreMissing, match="no store there"):
            Store.open(path)


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


def test_a_catalog_that_points_outside_the_store_opens_nothing(tmp_path, layout):
    """A part with right checksums that names files elsewhere."""
    from sm_store import catalog

    path = tmp_path / "s"
    store = building.build(path, layout=layout, kind=None, shards=1)
    (tmp_path / "secret").write_bytes(b"x" * 10_000)
    for place in ("../secret", "/etc/passwd", "shards/../../secret", "shards//x", "store.json"):
        info = store.parts[0].to_json()
        columns = {name: store.catalog.column(name).to_pylist() for name in catalog.SCHEMA.names}
        part = catalog.PartInfo(0, info["made_by"], {"features": place}, {place: catalog.Written(10_000, 0)})
        catalog.commit(path, 0, catalog.encode(catalog.SCHEMA, columns, part))
        with pytest.raises(StoreFormatError, match="outside the store"):
            Store.open(path)


@pytest.mark.parametrize("change", [("offset", 2**40), ("offset", -8), ("frames", 2**31 - 1), ("frames", -1)])
def test_a_catalog_that_points_outside_its_file_allocates_nothing(tmp_path, layout, compression, change):
    from sm_store import catalog

    path = tmp_path / "s"
    store = building.build(path, layout=layout, kind=None, shards=1, compression=compression)
    schema = catalog.schema_of(store.identity)
    columns = {name: store.catalog.column(name).to_pylist() for name in schema.names}
    columns[change[0]][3] = change[1]
    catalog.commit(path, 0, catalog.encode(schema, columns, store.parts[0]))
    with pytest.raises(StoreCorrupt, match=r"shard 0 record 3 .*points outside"):
        Store.open(path)
