"""Every kind of damage to every file of a store is noticed before a wrong number is used, and named by
verify."""

from __future__ import annotations

import os

import numpy as np
import pytest

from sm_store import Store, StoreCorrupt, StoreError, StoreMissing
from sm_store.status import status
from sm_store.verify import verify
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
