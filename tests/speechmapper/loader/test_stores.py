"""Several stores read as one: the batches of a merged store, and what keeps stores apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sm_store import Geometry, Store
from sm_store.convert import merge
from sm_store.errors import ConfigError, IdentityMismatch, StoreError, StoreMissing
from speechmapper.config import DataConfig
from speechmapper.loader.data import DataRequest, open_data
from speechmapper.loader.stores import Stores, open_stores, recorded_stores, require_same_stores, stores_identity
from speechmapper.loader.target_sets import choose_targets
from speechmapper.loader.token_ids import token_ids
from speechmapper.tasks import StoreFields
from tests.speechmapper.tiny import second_store

DATA = DataConfig(frames=200, max_utterances=4, micro_batches=2)


@pytest.fixture(scope="module", params=[("zarr", "dense"), ("webdataset", "table")], ids="-".join)
def other(request, tmp_path_factory):
    layout, kind = request.param
    return second_store(tmp_path_factory.mktemp("other") / "store", layout=layout, kind=kind)


@pytest.fixture
def joined(world, other):
    stores = open_stores([world.path, other])
    return Stores(stores, choose_targets(stores, None))


@pytest.fixture
def merged(world, other, tmp_path):
    copied = second_store(tmp_path / "copied", llm_folder=world.llm_folder)  # merge needs equal names and kinds
    merge(tmp_path / "merged", [world.path, copied])
    return Store.open(tmp_path / "merged")


@pytest.mark.parametrize("geometry", [None, Geometry((6,), (2,), (2,))], ids=["own", "other"])
def test_batches_are_those_of_the_merged_store_to_the_bit(joined, merged, geometry):
    for indices in ([1, 47, 3, 40, 39], [2, 0], [44, 41], []):
        one, two = (each.read(indices, "tiny", geometry=geometry) for each in (joined, merged))
        for name in ("features_BTD", "frames_B", "indices_B", "targets_BUE", "vectors_B", "tokens_B"):
            left, right = getattr(one, name), getattr(two, name)
            assert left.dtype == right.dtype and left.shape == right.shape
            assert left.tobytes() == right.tobytes(), name
        assert [ids.tolist() for ids in one.token_ids] == [ids.tolist() for ids in two.token_ids]
    assert joined.read([1, 47]).targets_BUE is None


def test_the_rest_is_the_merged_stores_too(joined, merged):
    assert len(joined) == len(merged) == 48
    for name in ("frames", "starts"):
        assert np.array_equal(getattr(joined, name), getattr(merged, name))
    assert np.array_equal(joined.token_counts("tiny"), merged.token_counts("tiny"))
    names = ["id", "shard", "text", "split"]
    assert joined.columns(names).to_pydict() == merged.columns(names).to_pydict()
    assert np.array_equal(joined.select(split="dev"), merged.select(split="dev"))
    for part in range(len(joined.starts) - 1):
        pairs = zip(joined.shard_token_ids(part, "tiny"), merged.shard_token_ids(part, "tiny"), strict=True)
        assert all(np.array_equal(one, two) for one, two in pairs)
    fields, expected = StoreFields(joined), StoreFields(merged)
    assert [fields[index] for index in (0, 39, 40, 47)] == [expected[index] for index in (0, 39, 40, 47)]
    assert joined.reopened().read([47]).frames_B.tolist() == joined.read([47]).frames_B.tolist()


def test_a_run_reads_what_it_would_read_of_the_merged_store(world, other, merged):
    wanted = (DataRequest([world.path, other]), DataRequest(merged.root))
    one, two = (open_data(each, Geometry(), DATA, 1) for each in wanted)
    assert one.order.sha256() == two.order.sha256()
    assert np.array_equal(one.dev, two.dev) and one.left_out == two.left_out
    assert [[batch.tolist() for batch in one.order.step(step)] for step in range(9)] == [
        [batch.tolist() for batch in two.order.step(step)] for step in range(9)
    ]
    assert [(index, ids.tolist()) for index, ids in token_ids(one)] == [
        (index, ids.tolist()) for index, ids in token_ids(two)
    ]
    assert any((batch < 40).any() and (batch >= 40).any() for batch in one.order.epoch(0))  # batches that mix


def test_one_store_is_itself(world):
    data = open_data(DataRequest([world.path]), Geometry(), DATA, 1)
    assert isinstance(data.store, Store) and data.notes == ()
    assert data.order.sha256() == open_data(DataRequest(world.path), Geometry(), DATA, 1).order.sha256()
    identity = world.store.identity.to_json()
    identity.pop("packages")
    assert stores_identity(data.store) == {"store": identity} and recorded_stores(data.store) == {}


def test_positions_and_target_sets_that_are_not_there(joined):
    for bad in ([48], [-1]):
        with pytest.raises(IndexError):
            joined.read(bad)
    with pytest.raises(StoreError, match="flatnonzero"):
        joined.read(np.ones(48, bool))
    with pytest.raises(IndexError):
        joined.shard_token_ids(99, "tiny")
    with pytest.raises(StoreMissing, match="'tiny', not 'none'"):
        joined.read([1], "none")


def test_stores_of_other_features_are_refused_with_both_names(world, tmp_path):
    encoder = {**world.store.identity.encoder, "layer": 9}
    other = second_store(tmp_path / "store", encoder=encoder, frame_rate=12.5)
    with pytest.raises(IdentityMismatch, match=r"encoder\.layer: 2 != 9; frame_rate: 25\.0 != 12\.5") as caught:
        open_stores([world.path, other])
    assert str(world.path) in str(caught.value) and str(other) in str(caught.value)


def test_a_store_given_twice_is_refused(world):
    with pytest.raises(ConfigError, match="given twice"):
        open_stores([world.path, world.path.parent / "." / world.path.name])


def test_the_log_tells_what_each_store_gives_and_ids_that_both_have(world, tmp_path):
    other = second_store(tmp_path / "store", prefix="u00", splits=(None,))  # u000 to u007, all of them
    notes = open_data(DataRequest([world.path, other]), Geometry(), DATA, 1).notes
    assert notes[0] == f"utterances of each store: {world.path} 30, {other} 8 (has no splits)"
    assert notes[1] == "ids in more than one store: 8; used for training and for validation: 1"
    apart = open_data(DataRequest([world.path, second_store(tmp_path / "apart")]), Geometry(), DATA, 1)
    assert len(apart.notes) == 1


def test_a_split_must_be_in_every_store_that_has_splits(world, tmp_path):
    other = second_store(tmp_path / "store", splits=("dev",))
    with pytest.raises(ConfigError, match=rf"{other}: no split 'train' \(there: dev\)"):
        open_data(DataRequest([world.path, other]), Geometry(), DATA, 1)


def test_number_and_order_of_the_stores_are_part_of_a_run(joined):
    swapped = Stores(joined.stores[::-1], choose_targets(joined.stores[::-1], None))
    one, two = stores_identity(joined), stores_identity(swapped)
    require_same_stores(one, one, "checkpoint c")
    with pytest.raises(IdentityMismatch, match=r"checkpoint c: .*another order.* in the order 2, 1"):
        require_same_stores(one, two, "checkpoint c")
    with pytest.raises(IdentityMismatch, match="trains on 2 stores, this command names 1"):
        require_same_stores(one, stores_identity(joined.stores[0]), "checkpoint c")


def test_a_projector_records_each_store(joined):
    made = recorded_stores(joined)["stores"]
    assert [each["manifest_sha256"] for each in made] == ["0" * 64, "1" * 64]
    assert dataclasses.asdict(joined.identity)["manifest_sha256"] == "0" * 64
