"""What a run reads: splits, target sets, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sm_store import Geometry
from sm_store.errors import ConfigError, StoreError
from sm_store.reading.remote import CACHE
from speechmapper.config import DataConfig
from speechmapper.loader.data import DataRequest, open_data, split_of
from tests.speechmapper.tiny import data_of

DATA = DataConfig(frames=400)


def test_trains_on_train_and_validates_on_dev(world):
    data = data_of(world, DATA)
    store = world.store
    assert data.split == "train"
    assert np.array_equal(np.sort(data.order.indices), store.select(split="train"))
    assert np.array_equal(data.dev, store.select(split="dev"))


def test_a_store_may_lie_at_a_url(world, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path))
    here, there = (
        open_data(DataRequest(path), Geometry(), DATA, 1) for path in (world.path, Path(f"file://{world.path}"))
    )
    assert there.store.path == f"file://{world.path}"
    batches = [(one, two) for one, two in zip(here.order.step(0), there.order.step(0), strict=True)]
    assert all(np.array_equal(one, two) for one, two in batches)
    left, right = (each.store.read(batches[0][0], "tiny") for each in (here, there))
    assert left.features_BTD.tobytes() == right.features_BTD.tobytes()


def test_a_split_can_be_named_and_dev_is_never_both(world):
    data = data_of(world, DATA, target="tiny", split="dev")
    assert np.array_equal(data.order.indices, world.store.select(split="dev"))
    assert len(data.dev) == 0


def test_the_orders_shards_are_the_stores(world):
    data = data_of(world, DATA)
    shards = np.asarray(world.store.columns(["shard"])["shard"])
    assert np.array_equal(data.order.shards, shards[data.order.indices])
    assert set(data.order.shards.tolist()) == {0, 1}


def test_too_little_data_for_a_step_is_said_at_once(world):
    with pytest.raises(ConfigError, match=r"lower data\.micro_batches"):
        data_of(world, DataConfig(frames=400, micro_batches=99))


def test_another_geometry_leaves_out_other_texts(world):
    """With one vector for 6 frames instead of 4, some texts have more tokens than vectors."""
    frames, tokens = world.store.frames, world.store.token_counts("tiny")
    train = world.store.select(split="train")
    geometry = Geometry((6, 6), (2, 3), (2, 2))
    expected = [index for index in train.tolist() if 0 < tokens[index] < geometry.num_vectors(int(frames[index]))]
    assert 0 < len(expected) < len(train)
    data = open_data(DataRequest(world.path), geometry, DATA, 1)
    assert sorted(data.order.indices.tolist()) == expected
    assert data.left_out.no_target == len(train) - len(expected)


def test_split_of():
    assert split_of([], None, "train", "s") is None
    assert split_of(["a", "train"], None, "train", "s") == "train"
    assert split_of(["a", "train"], "a", "train", "s") == "a"
    with pytest.raises(ConfigError, match=r"s: no split 'test' \(there: a, train\)"):
        split_of(["a", "train"], None, "test", "s")
    with pytest.raises(ConfigError, match=r"no split 'a' \(there: none\)"):
        split_of([], "a", "test", "s")


def test_no_store_there(tmp_path):
    with pytest.raises(StoreError, match="none"):
        open_data(DataRequest(tmp_path / "none"), Geometry(), DATA, 1)
