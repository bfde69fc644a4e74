"""Sizes before writing, against the files that are written."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store.rows import feature_rows
from sm_store.shards import shard_tar, shard_zarr
from sm_store.shards.ragged import Ragged, ShardContent
from sm_store.shards.sizes import Sizes
from tests.store import building

STARTS = [0, 3, 5]


@pytest.fixture
def counts():
    return np.asarray([700, 1, 30, 9000, 12, 5, 5, 64])


def files_of(root, layout, counts, samples):
    """Writes the shards; returns their sizes in bytes without what Sizes leaves out (tar ends, index checksums)."""
    (kind,) = feature_rows(building.identity())
    total = 0
    for shard, (start, stop) in enumerate(zip(STARTS, [*STARTS[1:], len(counts)], strict=True)):
        rows = [np.ones((n, building.WIDTH), "<f2") for n in counts[start:stop].tolist()]
        stream = Ragged(kind, rows, counts[start:stop].tolist())
        content = ShardContent(None, shard, [stream], samples[start:stop])
        if layout == "webdataset":
            shard_tar.write(root, content)
            data = (root / f"shards/{shard:05d}.tar").read_bytes()
            total += len(data.rstrip(b"\0")) + -len(data.rstrip(b"\0")) % 512
        else:
            shard_zarr.write(root, content)
            total += (root / f"shards/{shard:05d}/features/c/0/0").stat().st_size - 4
    return total, kind.row_bytes


def test_zarr_arrays(tmp_path, counts):
    found, row_bytes = files_of(tmp_path, "zarr", counts, [{}] * len(counts))
    assert Sizes("zarr", STARTS).rows(counts, row_bytes) == found
    assert Sizes("zarr", STARTS).texts(counts) == 0


def test_tars(tmp_path, counts):
    samples = [{"text": "x" * (n % 700)} for n in counts.tolist()]
    found, row_bytes = files_of(tmp_path, "webdataset", counts, samples)
    sizes = Sizes("webdataset", STARTS)
    texts = sizes.texts(np.asarray([len(b'{"text":""}') + n % 700 for n in counts.tolist()]))
    assert sizes.rows(counts, row_bytes) + texts == found


@pytest.mark.parametrize("layout", ["zarr", "webdataset"])
def test_no_utterances_take_nothing(layout):
    assert Sizes(layout, []).rows(np.zeros(0, np.int64), 8) == 0
