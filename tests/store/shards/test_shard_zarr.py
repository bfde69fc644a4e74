"""One shard as Zarr v3 arrays."""

from __future__ import annotations

import numpy as np

from sm_store.durable import checksum
from sm_store.rows import feature_rows
from sm_store.shards.ragged import Ragged, ShardContent
from sm_store.shards.shard_zarr import chunk_rows, data_file, offsets_name, shard_index, write
from tests.store import building


def test_inner_chunks_are_half_a_megabyte_and_no_more_than_needed():
    assert chunk_rows(100_000, 2048) == 256
    assert chunk_rows(100, 2048) == 128
    assert chunk_rows(1, 2048) == chunk_rows(0, 2048) == 1
    assert chunk_rows(100, 10**7) == 1


def test_each_extent_is_a_records_bytes(tmp_path):
    rows = [record.features for record in building.records(0)]
    (kind,) = feature_rows(building.identity())
    stream = Ragged(kind, rows, [len(each) for each in rows])
    written = write(tmp_path, ShardContent("llm", 3, [stream], [{}] * len(rows)))
    where = written.extents["features.npy"]
    data = (tmp_path / where.file).read_bytes()
    assert where.file == "targets/llm/shards/00003/features/c/0/0"
    for each, offset, total in zip(rows, where.offsets, where.crc32c, strict=True):
        assert data[offset : offset + each.nbytes] == each.tobytes() and total == checksum(each)
    offsets = (tmp_path / "targets/llm/shards/00003/offsets/c/0").read_bytes()
    assert np.frombuffer(offsets[:-4], "<i8").tolist() == np.cumsum([0, *map(len, rows)]).tolist()


def test_the_index_of_consecutive_chunks():
    index = shard_index([10, 20])
    assert np.frombuffer(index[:-4], "<u8").tolist() == [0, 10, 10, 20]
    assert int.from_bytes(index[-4:], "little") == checksum(index[:-4])


def test_coded_chunks_are_smaller_and_names_follow_the_format():
    assert chunk_rows(100_000, 2048, coded=True) == 32
    assert data_file("features", wide=True) == "features/c/0/0" and data_file("tokens", wide=False) == "tokens/c/0"
    assert offsets_name("features") == "offsets" and offsets_name("tokens") == "tokens_offsets"
