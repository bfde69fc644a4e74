"""int8 features: what is lost is what the format says, is measured, and is lost once."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tensorstore
import zarr

from sm_store import IdentityMismatch, Store, StoreError
from sm_store.convert import export, merge
from sm_store.dtypes import to_float32, to_storage
from sm_store.errors import ConfigError
from sm_store.int8 import quantize
from sm_store.status import status
from sm_store.verify import verify
from tests.store import building
from tests.store.test_stock_tools import samples

DTYPES = ["float16", "bfloat16", "float32"]


def numbers(dtype, scale=1.0, frames=40):
    """Frames of very different loudness, one of them silent."""
    rng = np.random.default_rng(3)
    loudness = scale * 10.0 ** rng.uniform(-2, 2, (frames, 1))
    loudness[7] = 0
    return to_storage((rng.standard_normal((frames, 16)) * loudness).astype(np.float32), dtype)


def one_by_one(features, dtype):
    """Codes and scales as the definition says them, number by number."""
    codes, scales = np.zeros(features.shape, np.int8), np.zeros(len(features), np.float32)
    for frame, row in enumerate(to_float32(features, dtype)):
        scales[frame] = max(abs(float(each)) for each in row)
        scales[frame] /= np.float32(127)
        for place, each in enumerate(row):
            codes[frame, place] = round(float(np.float32(each) / scales[frame])) if scales[frame] else 0
    return codes, scales


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_and_scales_are_those_of_the_definition(dtype):
    found = quantize(numbers(dtype), dtype)
    codes, scales = one_by_one(numbers(dtype), dtype)
    assert found.codes.dtype == np.int8 and found.codes.tobytes() == codes.tobytes()
    assert found.scales.dtype == np.float32 and found.scales.tobytes() == scales.tobytes()
    assert not found.codes[7].any() and found.scales[7] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_number_is_off_by_more_than_half_a_step_and_the_error_is_measured(dtype):
    given = to_float32(numbers(dtype), dtype).astype(np.float64)
    small = quantize(numbers(dtype), dtype)
    read = to_float32(small.features(dtype), dtype).astype(np.float64)
    rounding = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-23}[dtype] * np.abs(given).max(1, keepdims=True)
    assert (np.abs(read - given) <= small.scales[:, None] * 0.50001 + rounding).all()
    assert small.error == pytest.approx(np.linalg.norm(read - given) / np.linalg.norm(given))
    assert 0.002 < small.error < 0.012


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 65504.0), ("bfloat16", 3.38e38), ("float32", 3.4028235e38)])
def test_the_greatest_numbers_stay_finite(dtype, largest):
    given = to_storage(np.full((3, 4), largest, np.float32), dtype)
    read = to_float32(quantize(given, dtype).features(dtype), dtype)
    assert np.isfinite(read).all() and np.allclose(read, to_float32(given, dtype), rtol=1e-6)


def test_numbers_too_small_for_a_scale_become_zero():
    small = quantize(np.full((1, 4), 1e-45, np.float32), "float32")
    assert small.scales[0] == 0 and not small.codes.any() and small.error == 1.0
    assert quantize(np.zeros((2, 4), np.float16), "float16").error == 0.0


def test_it_takes_about_half_of_float16(tmp_path):
    sizes = {}
    for compression in (None, "int8"):
        store = Store.create(
            tmp_path / str(compression), building.identity(encoder={"width": 1024}, compression=compression)
        )
        store.commit(0, building.records(0, count=40, width=1024), [])
        sizes[compression] = sum(entry.size for entry in store.parts[0].files.values())
    assert 0.50 < sizes["int8"] / sizes[None] < 0.53


def test_stock_zarr_and_tensorstore_read_it(tmp_path):
    store = building.build(tmp_path / "s", compression="int8")
    group = zarr.open(tmp_path / "s/shards/00001", mode="r")
    expected = np.concatenate([store[row].features for row in range(5, 10)])
    product = group["features"][:] * group["scales"][:][:, None]
    assert group["features"].dtype == np.int8 and np.array_equal(product.astype(np.float16), expected)
    for name in ("features", "scales"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "s/shards/00001" / name)}}
        assert np.array_equal(tensorstore.open(spec).result().read().result(), group[name][:])
    assert group["offsets"][:].tolist() == group["scales_offsets"][:].tolist()


def test_stock_webdataset_reads_it(tmp_path):
    store = building.build(tmp_path / "s", layout="webdataset", compression="int8")
    found = samples([str(path) for path in sorted((tmp_path / "s/shards").glob("*.tar"))])
    assert len(found) == len(store) == 15
    for record, sample in zip(store, found, strict=True):
        codes, scales = (np.load(io.BytesIO(sample[name])) for name in ("features.npy", "features.scales.npy"))
        assert np.array_equal((codes * scales[:, None]).astype(np.float16), record.features)


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back_loses_nothing_more(tmp_path, layout, dtype):
    building.build(tmp_path / "s", layout=layout, dtype=dtype, compression="int8")
    other = "webdataset" if layout == "zarr" else "zarr"
    export(tmp_path / "s", tmp_path / "there", other)
    export(tmp_path / "there", tmp_path / "back", layout)
    assert building.tree(tmp_path / "back") == building.tree(tmp_path / "s")


def test_merged_records_are_the_same(tmp_path, layout):
    one = building.build(tmp_path / "one", layout=layout, shards=1, compression="int8")
    two = Store.create(tmp_path / "two", building.identity(layout=layout, compression="int8"))
    two.commit(0, building.records(5), [])
    merge(tmp_path / "all", [one.root, two.root], targets=[])
    whole = Store.open(tmp_path / "all")
    both = [*one, *two]
    assert [each.features.tobytes() for each in whole] == [each.features.tobytes() for each in both]
    errors = [store.columns(["error"])["error"].to_pylist() for store in (one, two, whole)]
    assert errors[0] + errors[1] == errors[2]


def test_what_was_lost_is_in_the_catalog_and_the_status(tmp_path, layout):
    store = building.build(tmp_path / "s", layout=layout, compression="int8")
    given = [record for shard in range(3) for record in building.records(shard)]
    expected = [np.float32(quantize(record.features, "float16").error) for record in given]
    assert store.columns(["error"])["error"].to_pylist() == expected
    error = status(store)["error"]
    assert error["worst"] == pytest.approx(max(expected)) and error["median"] == pytest.approx(np.median(expected))
    raw = building.build(tmp_path / "raw", layout=layout)
    assert status(raw)["error"] is None
    with pytest.raises(StoreError, match="no catalog column 'error'"):
        raw.columns(["error"])


def test_an_index_holds_what_was_lost_too(tmp_path, monkeypatch):
    monkeypatch.setattr("sm_store.index.WORTH", 2)
    before = building.build(tmp_path / "s", compression="int8")
    batch, errors = before.read(range(15)), before.columns(["error"])
    before.compact()
    assert (tmp_path / "s/catalog/_index.arrow").is_file()
    after = Store.open(tmp_path / "s")
    assert after.columns(["error"]).equals(errors)
    assert after.read(range(15)).features_BTD.tobytes() == batch.features_BTD.tobytes()
    assert verify(tmp_path / "s").ok


def test_features_that_are_not_of_their_int8_form_are_refused(tmp_path):
    store = building.build(tmp_path / "s", shards=1, compression="int8")
    records, _ = store.shard(0)
    louder = [replace(record, id=f"{record.id}-2", features=record.features * np.float16(2)) for record in records]
    with pytest.raises(StoreError, match="not those of their int8 form"):
        store.commit(1, louder, [])
    store.commit(1, [replace(record, quantized=None) for record in louder], [])
    assert np.array_equal(store[5].features, louder[0].features)  # twice the scales, the same codes


def test_another_form_is_another_store(tmp_path):
    building.build(tmp_path / "s", compression="int8")
    with pytest.raises(IdentityMismatch, match="compression"):
        Store.open_or_create(tmp_path / "s", building.identity())


def test_a_target_set_cannot_take_the_name_of_the_scales(tmp_path):
    store = building.build(tmp_path / "s", kind=None, compression="int8")
    with pytest.raises(ConfigError, match=r"target set name 'features\.scales'"):
        store.add_target_set(building.target_spec("features.scales"), building.table(), building.TOKENIZER)
