"""A shard's worth of ragged rows, and the catalog columns that say where they are."""

from __future__ import annotations

import numpy as np

from sm_store.rows import feature_rows
from sm_store.shards.ragged import Extents, ShardWritten
from tests.store import building


def extents(file, first):
    numbers = np.asarray([first, first + 1])
    return Extents(file, numbers, numbers + 10, numbers + 20)


def test_the_catalog_columns_of_all_kinds_of_rows():
    kinds = feature_rows(building.identity(compression="int8"))
    where = {"features.npy": extents("a", 0), "features.scales.npy": extents("b", 5), "llm.npy": extents("c", 9)}
    written = ShardWritten(where, {})
    columns = {name: column.tolist() for name, column in written.columns(kinds).items()}
    assert columns == {
        "offset": [0, 1],
        "stored": [20, 21],
        "crc32c": [10, 11],
        "scales_offset": [5, 6],
        "scales_crc32c": [15, 16],
    }
    assert written.data(kinds) == {"features": "a", "scales": "b"}
