"""Compressed stores: the same records, read by stock tools too, and no block is believed before it is checked."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr

from sm_store import IdentityMismatch, Store
from sm_store.codec import CHOICES, codec_of
from sm_store.convert import export
from sm_store.errors import ConfigError
from sm_store.shards import shard_zarr
from sm_store.verify import verify
from tests.store import building
from tests.store.test_stock_tools import samples

NAMES = [name for name in CHOICES.values() if name not in (None, "int8")]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _chunks_smaller_than_records(monkeypatch):
    """Records here have 8 to 60 rows of 24 bytes: some lie in one chunk, most in several."""
    monkeypatch.setattr(shard_zarr, "_CODED_CHUNK_BYTES", 500)


def written(path, **changes):
    """A store really written now, since chunks are smaller here than in those that other tests share."""
    building.write(path, **changes)
    return Store.open(path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_records_and_targets_are_those_of_a_raw_store(tmp_path, layout, kind, name, dtype):
    coded = written(tmp_path / "coded", layout=layout, kind=kind, dtype=dtype, compression=name)
    raw = building.build(tmp_path / "raw", layout=layout, kind=kind, dtype=dtype)
    order = np.random.default_rng(0).permutation(len(raw))
    for batch in (order, order[:4], order[:1], np.repeat(order[:2], 3)):
        left, right = coded.read(batch, "llm"), raw.read(batch, "llm")
        for field in ("features_BTD", "frames_B", "targets_BUE", "vectors_B", "tokens_B"):
            assert getattr(left, field).tobytes() == getattr(right, field).tobytes(), field
    assert [each.features.tobytes() for each in coded] == [each.features.tobytes() for each in raw]
    assert verify(tmp_path / "coded").ok


def test_stock_zarr_and_tensorstore_read_it(tmp_path, name):
    store = written(tmp_path / "s", compression=name)
    expected = np.concatenate([store[row].features for row in range(5)])
    folder = tmp_path / "s/shards/00000/features"
    assert np.array_equal(zarr.open(folder, mode="r")[:], expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    assert np.array_equal(tensorstore.open(spec).result().read().result(), expected)
    rows = zarr.open(tmp_path / "s/targets/llm/shards/00001/embeddings", mode="r")[:]
    batch = store.read(range(5, 10), "llm")
    assert np.array_equal(
        rows, np.concatenate([t[:n] for t, n in zip(batch.targets_BUE, batch.vectors_B, strict=True)])
    )


def test_stock_webdataset_reads_it(tmp_path, name):
    store = written(tmp_path / "s", layout="webdataset", compression=name)
    suffix = codec_of(name, 2).suffix
    decode = numcodecs.Zstd().decode if suffix == ".zst" else numcodecs.Blosc().decode
    tars = [str(path) for path in sorted((tmp_path / "s/shards").glob("*.tar"))]
    found = samples(tars)
    assert len(found) == len(store) == 15
    for record, sample in zip(store, found, strict=True):
        array = np.load(io.BytesIO(decode(sample[f"features.npy{suffix}"])), allow_pickle=False)
        assert np.array_equal(array, record.features)


def test_the_same_records_make_the_same_bytes_whatever_threads_there_are(tmp_path, name, layout):
    written(tmp_path / "a", layout=layout, compression=name)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(written, tmp_path / "b", layout=layout, compression=name).result()
    before = numcodecs.blosc.set_nthreads(8)
    written(tmp_path / "c", layout=layout, compression=name)
    numcodecs.blosc.set_nthreads(before)
    assert building.tree(tmp_path / "a") == building.tree(tmp_path / "b") == building.tree(tmp_path / "c")


def test_one_large_block_is_the_same_with_many_threads(name):
    rows = np.random.default_rng(0).standard_normal((4000, 1024)).astype(np.float16)
    codec = codec_of(name, 2)
    first = codec.encode(rows)
    before = numcodecs.blosc.set_nthreads(8)
    assert all(codec.encode(rows) == first for _ in range(5))
    numcodecs.blosc.set_nthreads(before)


def test_repeating_targets_take_less(tmp_path, name):
    sizes = {}
    for label, compression in (("raw", None), ("coded", name)):
        store = written(tmp_path / label, compression=compression)
        sizes[label] = sum(
            path.stat().st_size for path in (store.root / "targets/llm/shards").rglob("0") if path.is_file()
        )
    assert sizes["coded"] < sizes["raw"]


def test_a_block_that_says_it_is_huge_allocates_nothing(name):
    """A bomb: what a block decodes to is known before, and held against what it says."""
    codec = codec_of(name, 2)
    bomb = codec.encode(np.zeros(50_000_000, np.uint8))
    assert len(bomb) < 1_000_000
    out = np.zeros(1000, np.uint8)
    with pytest.raises(ValueError):
        codec.decode(bomb, out)
    assert not out.any()


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 16, b"\xff" * 64, bytes(range(200))])
def test_what_is_no_block_is_a_value_error(name, data):
    with pytest.raises(ValueError):
        codec_of(name, 2).decode(data, np.zeros(100, np.uint8))


def test_there_and_back_through_the_other_layout(tmp_path, layout, name):
    written(tmp_path / "s", layout=layout, compression=name)
    other = "webdataset" if layout == "zarr" else "zarr"
    export(tmp_path / "s", tmp_path / "there", other)
    export(tmp_path / "there", tmp_path / "back", layout)
    assert building.tree(tmp_path / "back") == building.tree(tmp_path / "s")


def test_another_codec_is_another_store(tmp_path):
    written(tmp_path / "s", compression="zstd:1")
    with pytest.raises(IdentityMismatch, match="compression"):
        Store.open_or_create(tmp_path / "s", building.identity(compression="zstd:5"))


@pytest.mark.parametrize(
    "wrong", ["gzip", "zstd", "zstd:x", "zstd:99", "blosc:lz4:5", "blosc:gzip:5:shuffle", "int8:4", ""]
)
def test_unknown_codecs_are_refused_with_the_choices(wrong):
    with pytest.raises(ConfigError, match="choose none, zstd, blosc, int8"):
        building.identity(compression=wrong)


def test_all_choices_work():
    assert CHOICES["none"] is None
    for value in NAMES:
        assert codec_of(value, 2).name == value
