"""Records of compressed shards, read through their codec."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store import Store, StoreCorrupt
from sm_store.codec import CHOICES
from sm_store.verify import verify
from tests.store import building

NAMES = [name for name in CHOICES.values() if name not in (None, "int8")]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def written(path, **changes):
    """A store really written now, since chunks are smaller here than in those that other tests share."""
    building.write(path, **changes)
    return Store.open(path)


@pytest.mark.parametrize("policy", ["always", "first-epoch", "never"])
def test_every_policy_reads_it(tmp_path, layout, name, policy):
    written(tmp_path / "s", layout=layout, compression=name)
    store = Store.open(tmp_path / "s", checksums=policy)
    for _ in range(2):
        batch = store.read(range(15))
        assert batch.features_BTD[3, : batch.frames_B[3]].tobytes() == building.records(0)[3].features.tobytes()


def test_every_flipped_byte_of_the_data_is_noticed(tmp_path, layout, name):
    store = written(tmp_path / "s", layout=layout, compression=name)
    path = tmp_path / "s" / store.parts[1].data["features"]
    good = path.read_bytes()
    expected = store.read(range(15)).features_BTD.tobytes()
    for place in np.random.default_rng(0).integers(0, len(good), 150).tolist():
        path.write_bytes(good[:place] + bytes([good[place] ^ 32]) + good[place + 1 :])
        assert not verify(tmp_path / "s").ok
        try:
            found = Store.open(tmp_path / "s").read(range(15)).features_BTD.tobytes()
        except StoreCorrupt as error:
            assert "shard 1 record" in str(error)
        else:
            assert found == expected  # a byte that holds no record's numbers: tar headers, padding


def test_damage_is_named_to_the_record(tmp_path, layout, name):
    store = written(tmp_path / "s", layout=layout, compression=name)
    path = tmp_path / "s" / store.parts[0].data["features"]
    data = bytearray(path.read_bytes())
    place = store.columns(["offset"])["offset"][4].as_py() + 150 if layout == "webdataset" else len(data) - 200
    data[place] ^= 1
    path.write_bytes(data)
    damages = [damage for damage in verify(tmp_path / "s").damages if damage.record is not None]
    assert damages and all(damage.shard == 0 for damage in damages)
    if layout == "webdataset":
        assert [(damage.record, damage.id) for damage in damages] == [(4, "utt-0.4/a")]


def test_a_cut_chunk_index_is_named(tmp_path, name):
    store = written(tmp_path / "s", compression=name)
    path = tmp_path / "s" / store.parts[0].data["features"]
    data = bytearray(path.read_bytes())
    data[-12] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"shard 0 record 0 .*chunk index is damaged"):
        Store.open(tmp_path / "s").read([0])
