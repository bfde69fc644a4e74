"""One version of a store: what was committed when it was opened."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store import Store, StoreError
from tests.store import building
from tests.store.building import written


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


def test_positions_are_integers(store):
    """A mask read records 0 and 1, fractions those below: other records than meant, silently."""
    with pytest.raises(StoreError, match=r"of type bool; give np\.flatnonzero\(mask\)"):
        store.read(store.frames > 0)
    for wrong in ([0.9], ["1"], [None], np.array([2.0])):
        with pytest.raises(StoreError, match="give integers"):
            store.read(wrong)
    assert len(store.read([]).frames_B) == 0
    assert store.read(np.uint8([3, 1])).frames_B.tolist() == store.frames[[3, 1]].tolist()


def test_negative_position_counts_from_the_end(store):
    assert store[-1].id == store[14].id


def test_reading_while_another_handle_commits(tmp_path, layout):
    writer = building.build(tmp_path / "s", layout=layout, shards=2, kind=None)
    reader = Store.open(tmp_path / "s")
    writer.commit(2, building.records(2), [])
    assert len(reader) == 10 and len(writer) == 15 and len(Store.open(tmp_path / "s")) == 15
    assert reader.read(range(10)).frames_B.tolist() == writer.frames[:10].tolist()
    reader.refresh()
    assert len(reader) == 15
