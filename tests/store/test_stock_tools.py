"""Stores opened by tools that know nothing of this project: zarr, webdataset, pyarrow, tarfile, numpy,
tensorstore."""

from __future__ import annotations

import gc
import io
import json
import tarfile
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
import zarr

from tests.store import building


def samples(urls, decode=False):
    """All samples by webdataset, which leaves its files for the garbage collector to close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        dataset = webdataset.WebDataset(urls, shardshuffle=False)
        found = list(dataset.decode() if decode else dataset)
        del dataset
        gc.collect()
    return found


@pytest.fixture
def zarr_store(tmp_path):
    building.build(tmp_path / "s", layout="zarr")
    return tmp_path / "s"


@pytest.fixture
def tar_store(tmp_path):
    building.build(tmp_path / "s", layout="webdataset")
    return tmp_path / "s"


def flat(shard):
    return np.concatenate([record.features for record in building.records(shard)])


def test_zarr_opens_features_and_offsets(zarr_store):
    root = zarr.open(zarr_store, mode="r")
    for shard in range(3):
        group = root[f"shards/{shard:05d}"]
        assert group["features"].dtype == np.float16
        assert np.array_equal(group["features"][:], flat(shard))
        lengths = [len(record.features) for record in building.records(shard)]
        assert group["offsets"][:].tolist() == np.cumsum([0, *lengths]).tolist()
        assert group.attrs["records"] == 5
        start, end = group["offsets"][2:4]
        assert np.array_equal(group["features"][start:end], building.records(shard)[2].features)


def test_zarr_lists_the_groups(zarr_store):
    root = zarr.open_group(zarr_store, mode="r")
    # Beside the arrays lie store.json, catalog/ and ledger/, which zarr remarks on.
    with pytest.warns(UserWarning, match="not recognized as a component of a Zarr hierarchy"):
        assert sorted(root.group_keys()) == ["shards", "targets"]
    assert sorted(root["shards"].group_keys()) == ["00000", "00001", "00002"]
    assert sorted(root["targets/llm/shards/00001"].array_keys()) == [
        "embeddings",
        "embeddings_offsets",
        "tokens",
        "tokens_offsets",
    ]
    assert root["targets/llm"].attrs["target"]["llm"] == "tiny-llm"


def test_zarr_opens_targets(zarr_store):
    group = zarr.open(zarr_store, mode="r")["targets/llm/shards/00002"]
    ids = building.token_ids(2, building.records(2))
    assert np.array_equal(group["tokens"][:], np.concatenate(ids))
    start = group["embeddings_offsets"][0]
    assert np.array_equal(group["embeddings"][start : start + len(ids[0])], building.table()[ids[0]].astype(np.float16))


def test_zarr_stores_features_as_one_sharded_file(zarr_store):
    array = zarr.open(zarr_store, mode="r")["shards/00000/features"]
    assert array.shards is not None and array.shards[0] >= array.shape[0]
    files = [path for path in (zarr_store / "shards/00000/features/c").rglob("*") if path.is_file()]
    assert len(files) == 1


def test_zarr_reads_many_inner_chunks(tmp_path):
    """More rows than one inner chunk holds, and a last chunk that is not full."""
    store = building.Store.create(tmp_path / "s", building.identity(encoder={"width": 1024}))
    made = building.records(0, count=30, width=1024)
    store.commit(0, made, [])
    array = zarr.open(tmp_path / "s", mode="r")["shards/00000/features"]
    assert array.chunks == (256, 1024) and array.shape[0] % 256
    assert np.array_equal(array[:], np.concatenate([record.features for record in made]))
    assert np.array_equal(array[255:258], np.concatenate([record.features for record in made])[255:258])


def test_zarr_opens_bfloat16_as_its_bits(tmp_path):
    building.build(tmp_path / "s", layout="zarr", dtype="bfloat16")
    array = zarr.open(tmp_path / "s", mode="r")["shards/00000/features"]
    assert array.dtype == np.uint16 and array.attrs["dtype"] == "bfloat16"
    expected = np.concatenate([record.features for record in building.records(0, dtype="bfloat16")])
    assert np.array_equal(array[:], expected)


def test_zarr_opens_an_empty_shard(tmp_path):
    store = building.Store.create(tmp_path / "s", building.identity())
    store.commit(0, [], building.rejects())
    group = zarr.open(tmp_path / "s", mode="r")["shards/00000"]
    assert group["features"][:].shape == (0, building.WIDTH) and group["offsets"][:].tolist() == [0]


def test_zarr_notices_a_damaged_index(zarr_store):
    path = zarr_store / "shards/00000/features/c/0/0"
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open(zarr_store, mode="r")["shards/00000/features"][:]


def test_tensorstore_opens_features(zarr_store):
    tensorstore = pytest.importorskip("tensorstore")
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(zarr_store / "shards/00001/features")},
    }
    array = tensorstore.open(spec, read=True).result()
    assert np.array_equal(array.read().result(), flat(1))


def test_webdataset_reads_samples(tar_store):
    urls = [str(path) for path in sorted((tar_store / "shards").glob("*.tar"))]
    found = samples(urls, decode=True)
    expected = [record for shard in range(3) for record in building.records(shard)]
    assert len(found) == len(expected) == len({sample["__key__"] for sample in found})
    ids = [entry for shard in range(3) for entry in building.token_ids(shard, building.records(shard))]
    for sample, record, tokens in zip(found, expected, ids, strict=True):
        assert np.array_equal(sample["features.npy"], record.features)
        assert sample["json"]["id"] == record.id and sample["json"]["text"] == record.text
        assert sample["json"]["frames"] == len(record.features)
        assert sample["llm.tokens.npy"].tolist() == tokens.tolist()
        assert np.array_equal(sample["llm.npy"][: len(tokens)], building.table()[tokens].astype(np.float16))
        assert np.array_equal(sample["llm.npy"][-1], building.table()[building.PAD].astype(np.float16))


def test_tarfile_sees_plain_members(tar_store):
    with tarfile.open(tar_store / "shards" / "00001.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:4]] == [
            "00001000000.json",
            "00001000000.features.npy",
            "00001000000.llm.npy",
            "00001000000.llm.tokens.npy",
        ]
        assert all(m.isfile() and m.mtime == m.uid == m.gid == 0 and m.mode == 0o644 for m in members)
        fields = json.load(tar.extractfile(members[0]))
        features = np.load(io.BytesIO(tar.extractfile(members[1]).read()), allow_pickle=False)
    assert fields["duration"] == building.records(1)[0].duration and "question" not in fields
    assert np.array_equal(features, building.records(1)[0].features)


def test_targets_added_later_are_tars_of_the_same_keys(tar_store):
    store = building.Store.open(tar_store)
    store.add_target_set(building.target_spec("late"), building.table(), building.TOKENIZER)
    store.commit_targets("late", 0, building.token_ids(0, building.records(0)))
    late = tar_store / "targets/late/shards/00000.tar"
    first = samples(str(tar_store / "shards/00000.tar"))
    assert [entry["__key__"] for entry in samples(str(late))] == [entry["__key__"] for entry in first]


def test_parquet_opens_the_catalog(store, layout, tmp_path):
    table = pq.read_table(tmp_path / "s.store" / "catalog")
    assert table.num_rows == 15
    assert table.column("id").to_pylist() == [record.id for record in store]
    assert dict(table.column("translation")[0].as_py()) == {"de": "guten Tag", "fr": "bonjour"}


def test_numpy_opens_the_embedding_table(store, tmp_path):
    table = np.load(tmp_path / "s.store" / "targets/llm/table.npy", allow_pickle=False)
    assert np.array_equal(table, building.table())


def test_ledger_is_json_lines(store, tmp_path):
    lines = (tmp_path / "s.store" / "ledger" / "00002.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "bad-2", "reason": "audio_missing", "detail": "x.wav: no such file"}
    ]
