"""One shard as Zarr v3 arrays."""

from __future__ import annotations

from sm_store.shards.shard_zarr import chunk_rows


def test_inner_chunks_are_half_a_megabyte_and_no_more_than_needed():
    assert chunk_rows(100_000, 2048) == 256
    assert chunk_rows(100, 2048) == 128
    assert chunk_rows(1, 2048) == chunk_rows(0, 2048) == 1
    assert chunk_rows(100, 10**7) == 1
