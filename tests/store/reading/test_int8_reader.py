"""Features kept as int8, read as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store import Store, StoreCorrupt
from sm_store.verify import verify
from tests.store import building, test_damage

DTYPES = ["float16", "bfloat16", "float32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_and_records_are_codes_times_scales(tmp_path, layout, kind, dtype):
    store = building.build(tmp_path / "s", layout=layout, kind=kind, dtype=dtype, compression="int8")
    raw = building.build(tmp_path / "raw", layout=layout, kind=kind, dtype=dtype)
    expected = [building.as_read(record, "int8", dtype).features for record in raw]
    order = np.random.default_rng(0).permutation(len(raw))
    for policy in ("always", "first-epoch", "never"):
        batch = Store.open(tmp_path / "s", checksums=policy).read(order, "llm")
        assert batch.features_BTD.dtype == raw[0].features.dtype
        for row, index in enumerate(order.tolist()):
            frames = batch.frames_B[row]
            assert batch.features_BTD[row, :frames].tobytes() == expected[index].tobytes()
            assert not batch.features_BTD[row, frames:].any()
        assert batch.targets_BUE.tobytes() == raw.read(order, "llm").targets_BUE.tobytes()  # nothing is lost there
    assert [each.features.tobytes() for each in store] == [each.tobytes() for each in expected]
    assert verify(tmp_path / "s").ok


@pytest.mark.parametrize("stream", ["features", "scales"])
def test_every_flipped_byte_is_noticed(tmp_path, layout, stream):
    store = building.build(tmp_path / "s", layout=layout, compression="int8")
    path = tmp_path / "s" / store.parts[1].data[stream]
    good, expected = path.read_bytes(), store.read(range(15)).features_BTD.tobytes()
    for place in np.random.default_rng(0).integers(0, len(good), 100).tolist():
        path.write_bytes(good[:place] + bytes([good[place] ^ 32]) + good[place + 1 :])
        assert verify(tmp_path / "s").bad_shards() == [1]
        try:
            found = Store.open(tmp_path / "s").read(range(15)).features_BTD.tobytes()
        except StoreCorrupt as error:
            assert "shard 1 record" in str(error)
        else:
            assert found == expected  # tar headers, padding, the chunk index


def test_other_damage_is_noticed(tmp_path, layout):
    building.build(tmp_path / "s", layout=layout, shards=2, compression="int8")
    test_damage.test_truncated_extended_emptied_and_deleted_files(tmp_path / "s")
    test_damage.test_swapped_files(tmp_path / "s")
