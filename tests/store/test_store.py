"""Creating, opening and committing: what is refused, and how it is said."""

from __future__ import annotations

import sys

import pytest

from sm_store import (
    IdentityMismatch,
    Store,
    StoreError,
    StoreFormatError,
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


def test_shard_numbers_beyond_five_digits(tmp_path, layout):
    store = Store.create(tmp_path / "s", building.identity(layout=layout))
    for shard in (123456, 7):
        store.commit(shard, building.records(shard, count=2), [])
    store = Store.open(tmp_path / "s")
    assert store.done_shards() == {7, 123456}
    assert [entry.id for entry in store] == ["utt-7.0/a", "utt-7.1/a", "utt-123456.0/a", "utt-123456.1/a"]


def test_a_store_shows_what_it_is(tmp_path):
    store = Store.create(tmp_path / "s", building.identity())
    assert repr(store) == f"<Store {tmp_path / 's'}: 0 records of {building.WIDTH} float16 from {_encoder(store)}>"
    store = building.build(tmp_path / "t")
    assert repr(store).endswith(f"from {_encoder(store)}, targets: {', '.join(store.target_names)}>")


def _encoder(store: Store) -> str:
    return store.identity.encoder["id"]


def test_the_store_itself_loads_no_torch(tmp_path):
    import subprocess

    building.build(tmp_path / "s")
    code = "import sys; from sm_store import Store; Store.open(sys.argv[1]).read([0], 'llm'); "
    code += "sys.exit('torch' in sys.modules or 'zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")]).returncode == 0
