from __future__ import annotations

import numpy as np
import pytest

from sm_store import StoreFormatError
from sm_store.dtypes import is_finite, numpy_dtype, to_float32, to_storage

VALUES = np.float32([0.0, -0.0, 1.0, -1.5, 3.1415927, 1e-30, 65504.0, 1e38, np.inf, -np.inf])


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_stored_values_are_exact(name):
    stored = to_storage(VALUES, name)
    assert stored.dtype == numpy_dtype(name)
    assert np.array_equal(to_storage(to_float32(stored, name), name), stored)


def test_bfloat16_is_torch_s():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = np.concatenate([VALUES, rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)])
    values = values[~np.isnan(values)]
    expected = torch.from_numpy(values).to(torch.bfloat16)
    stored = to_storage(values, "bfloat16")
    assert torch.equal(torch.from_numpy(stored).view(torch.bfloat16), expected)
    assert torch.equal(torch.from_numpy(to_float32(stored, "bfloat16")), expected.float())


def test_nan_stays_nan():
    nans = np.uint32([0x7FC00000, 0x7F800001, 0xFFFFFFFF]).view(np.float32)
    for name in ("float16", "bfloat16", "float32"):
        assert np.isnan(to_float32(to_storage(nans, name), name)).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_is_finite(name, bad):
    values = np.float32([[1, 2], [3, 4]])
    assert is_finite(to_storage(values, name), name)
    values[1, 0] = bad
    assert not is_finite(to_storage(values, name), name)


def test_overflow_becomes_infinite_without_a_warning():
    assert not is_finite(to_storage(np.float32([70000.0]), "float16"), "float16")


def test_results_are_contiguous():
    assert to_storage(np.ones((4, 6), np.float32).T, "float16").flags.c_contiguous
    assert to_storage(np.ones((4, 6), np.float32).T, "bfloat16").flags.c_contiguous


def test_unknown_dtype():
    with pytest.raises(StoreFormatError, match="dtype 'int8': a store holds float16, bfloat16, float32"):
        numpy_dtype("int8")
