"""One shard as a plain tar: where the rows are said to be, they are."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from sm_store.durable import Written, checksum
from sm_store.rows import feature_rows
from sm_store.shards.ragged import Ragged, ShardContent
from sm_store.shards.shard_tar import NPY_HEAD, npy_header, sample_key, write
from tests.store import building

RECORDS = building.records(0)


def content(shard=3, target=None, **changes):
    (kind,) = feature_rows(building.identity(**changes))
    rows = [record.features for record in RECORDS]
    samples = [{"id": record.id} for record in RECORDS]
    return ShardContent(target, shard, [Ragged(kind, rows, [len(each) for each in rows])], samples)


def test_each_extent_is_a_records_bytes(tmp_path):
    written = write(tmp_path, content())
    where = written.extents["features.npy"]
    data = (tmp_path / where.file).read_bytes()
    assert where.file == "shards/00003.tar"
    for record, offset, total, stored in zip(RECORDS, where.offsets, where.crc32c, where.stored, strict=True):
        rows = record.features.tobytes()
        assert data[offset : offset + len(rows)] == rows and total == checksum(rows) and stored == 0
    assert written.files == {where.file: Written(len(data), checksum(data))}


def test_an_encoded_member_is_one_block(tmp_path):
    written = write(tmp_path, content(compression="zstd:1"))
    where = written.extents["features.npy"]
    with tarfile.open(tmp_path / where.file) as tar:
        members = [member for member in tar if member.name.endswith(".features.npy.zst")]
    assert [member.offset_data for member in members] == where.offsets.tolist()
    assert [member.size for member in members] == where.stored.tolist()
    assert where.crc32c.tolist() == [checksum(record.features) for record in RECORDS]


def test_members_are_in_row_order_and_plain(tmp_path):
    written = write(tmp_path, content(target="llm"))
    assert list(written.files) == ["targets/llm/shards/00003.tar"]
    with tarfile.open(tmp_path / "targets/llm/shards/00003.tar") as tar:
        members = tar.getmembers()
    names = [f"{sample_key(3, row)}.{end}" for row in range(len(RECORDS)) for end in ("json", "features.npy")]
    assert [member.name for member in members] == names
    assert {(member.mtime, member.mode, member.uid, member.uname) for member in members} == {(0, 0o644, 0, "")}


@pytest.mark.parametrize("shape", [(1, 4), (123_456, 4096), (7,)])
def test_the_npy_header_has_one_length_and_numpy_reads_it(shape):
    header = npy_header(np.lib.stride_tricks.as_strided(np.zeros(1, np.float16), shape, (0,) * len(shape)))
    assert len(header) == NPY_HEAD
    source = io.BytesIO(header)
    assert np.lib.format.read_magic(source) == (1, 0)
    assert np.lib.format.read_array_header_1_0(source) == (shape, False, np.dtype("<f2"))


def test_keys_are_unique_and_have_no_dots():
    assert sample_key(7, 12) == "00007000012"
    assert "." not in sample_key(123_456, 1_234_567)
