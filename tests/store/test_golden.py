"""Stores written by every format version so far still open, hold what they held, and are written the same today."""

from __future__ import annotations

import shutil

import pytest

from sm_store import Store
from sm_store.document import FORMAT_VERSION
from sm_store.verify import verify
from tests.golden import write as golden
from tests.reference.store_reader import read_store
from tests.store import building

STORES = sorted(path.parent for path in golden.FOLDER.glob("v*/*/store.json"))


@pytest.fixture(params=STORES, ids=lambda path: f"{path.parent.name}-{path.name}")
def path(request, tmp_path):
    """A copy, so that nothing ever changes the committed one."""
    return shutil.copytree(request.param, tmp_path / request.param.parent.name / request.param.name)


def test_every_form_of_this_version_is_there():
    assert {path.name for path in STORES if path.parent.name == f"v{FORMAT_VERSION}"} == set(golden.FORMS)


def test_it_opens_and_holds_what_was_put_in(path):
    _, _, dtype, compression = golden.FORMS[path.name]
    store = Store.open(path)
    expected = [
        building.as_read(record, compression, dtype)
        for shard in range(golden.SHARDS)
        for record in building.records(shard, count=golden.RECORDS, dtype=dtype)
    ]
    assert len(store) == len(expected) == 6 and store.target_names == ["late", "llm"]
    for found, record in zip(store, expected, strict=True):
        assert (found.id, found.fields) == (record.id, record.fields)
        assert found.features.tobytes() == record.features.tobytes()
    assert store.read(range(6), "llm").targets_BUE.tobytes() == store.read(range(6), "late").targets_BUE.tobytes()
    assert [reject.id for reject in store.rejects()] == ["bad-0", "bad-1"]
    assert verify(path).ok


def test_the_independent_reader_reads_it(path):
    store, found = Store.open(path), read_store(path)
    assert list(found) == store.columns(["id"])["id"].to_pylist()
    for index, entry in enumerate(found.values()):
        assert entry["features"].tobytes() == store[index].features.tobytes()
        rows, ids = entry["targets"]["llm"]
        batch = store.read([index], "llm")
        assert rows.tobytes() == batch.targets_BUE.tobytes() and ids.tolist() == batch.token_ids[0].tolist()


def test_the_same_is_written_today(path, tmp_path):
    """Byte for byte, but for Parquet files, whose bytes are the library's, and what seals them."""
    golden.write(tmp_path / "now", path.name)
    then, now = ({name: data for name, data in building.tree(each).items() if "/catalog/" not in f"/{name}"}
                 for each in (path, tmp_path / "now"))  # fmt: skip
    assert then == now
