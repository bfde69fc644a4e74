from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet
import pytest

from sm_store import StoreCorrupt, StoreFormatError, catalog
from sm_store.catalog import PartInfo
from sm_store.durable import Written

INFO = PartInfo(3, "ab", {"tokens": "shards/00003/x"}, {"shards/00003/x": Written(9, 4)})
SUMS = [7, 2**32 - 1]
COLUMNS = {"row": [0, 1], "vectors": [5, 6], "tokens": [1, 2], "tokens_offset": [0, 4], "tokens_crc32c": SUMS}
SCHEMA = catalog.TARGET_SCHEMAS["table"]


@pytest.fixture
def root(tmp_path):
    catalog.commit(tmp_path, 3, catalog.encode(SCHEMA, COLUMNS, INFO))
    return tmp_path


def test_a_part_comes_back(root):
    info, table = catalog.read_part(root, 3, ["tokens_crc32c", "row"])
    assert info == INFO
    assert table.column("row").to_pylist() == [0, 1]
    assert table.column("tokens_crc32c").to_pylist() == [7, 2**32 - 1]


def test_the_same_content_is_the_same_bytes():
    turned = dict(reversed(COLUMNS.items()))
    assert catalog.encode(SCHEMA, COLUMNS, INFO) == catalog.encode(SCHEMA, turned, INFO)


def test_parts_are_listed_by_number(root):
    for shard in (100_000, 12):
        catalog.commit(root, shard, catalog.encode(SCHEMA, COLUMNS, INFO))
    (root / "catalog/.00007.parquet.tmp-1-ab").write_bytes(b"")
    (root / "catalog/notes.txt").write_bytes(b"")
    assert catalog.committed_shards(root) == [3, 12, 100_000]
    assert catalog.committed_shards(root / "nowhere") == []


def test_a_column_that_is_not_there_is_another_format(root):
    with pytest.raises(StoreFormatError, match=r"not a catalog part of this format.*nothing"):
        catalog.read_part(root, 3, ["row", "nothing"])


def test_a_part_under_another_number_is_noticed(root):
    (root / "catalog/00004.parquet").write_bytes((root / "catalog/00003.parquet").read_bytes())
    (root / "catalog/_00004.crc32c").write_bytes((root / "catalog/_00003.crc32c").read_bytes())
    with pytest.raises(StoreCorrupt, match="is the part of shard 3"):
        catalog.read_part(root, 4, ["row"])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100])
def test_a_sealed_file_that_is_no_part(root, data):
    catalog.commit(root, 3, data)
    with pytest.raises(StoreFormatError, match="not a catalog part of this format"):
        catalog.read_part(root, 3, ["row"])


def test_another_tool_s_parquet_is_no_part(root):
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"row": [0]}), sink)
    catalog.commit(root, 3, sink.getvalue().to_pybytes())
    with pytest.raises(StoreFormatError, match="not a catalog part"):
        catalog.read_part(root, 3, ["row"])


@pytest.mark.parametrize("seal", [b"", b"{}", b'{"size": 1}', b"[1]", b'{"crc32c":1,"size":"x"}'])
def test_damaged_seals(root, seal):
    (root / "catalog/_00003.crc32c").write_bytes(seal)
    with pytest.raises(StoreCorrupt, match=r"_00003\.crc32c: damaged"):
        catalog.read_part(root, 3, ["row"])
