"""What a store holds when it is opened: the catalog against files, identity and itself."""

from __future__ import annotations

import shutil

import pytest

from sm_store import Store, StoreCorrupt, StoreFormatError
from sm_store.verify import verify
from tests.store import building


@pytest.fixture
def path(tmp_path, layout, kind):
    building.build(tmp_path / "s", layout=layout, kind=kind, shards=2)
    return tmp_path / "s"


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


def test_missing_data_is_said_at_opening(path):
    store = Store.open(path)
    (path / store.parts[0].data["features"]).unlink()
    with pytest.raises(StoreCorrupt, match=r"shard 0 \(features\): .*missing"):
        Store.open(path)


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
