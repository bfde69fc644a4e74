"""Storage dtypes: float32, float16, and bfloat16 as the uint16 bits that numpy can hold.

Zarr v3 has no bfloat16 in its core and stock zarr-python refuses the extension of that name, so bfloat16
arrays are declared as `uint16` with the attribute `dtype: bfloat16`; every stock tool opens them, and the
bits are exact.

    to_storage(np.float32([1.0]), "bfloat16")   -> array([16256], dtype=uint16)
    to_float32(array, "bfloat16")               -> array([1.], dtype=float32)
"""

from __future__ import annotations

import numpy as np

from sm_store.errors import StoreFormatError

NUMPY: dict[str, np.dtype] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}
_INTEGER: dict[int, np.dtype] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype that holds `name`.

    Raises:
        StoreFormatError: not one of float16, bfloat16, float32.
    """
    if name not in NUMPY:
        raise StoreFormatError(f"dtype {name!r}: a store holds {', '.join(NUMPY)}")
    return NUMPY[name]


def to_storage(values: np.ndarray, name: str) -> np.ndarray:
    """Floats as stored, rounded to nearest even. Overflow becomes infinity: check with `is_finite`."""
    dtype = numpy_dtype(name)
    if name != "bfloat16":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=dtype)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype(dtype)


def to_float32(stored: np.ndarray, name: str) -> np.ndarray:
    """Stored values as float32, exactly."""
    if name == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def is_finite(stored: np.ndarray, name: str) -> bool:
    """Whether no stored value is NaN or infinite.

    Such values have the greatest bits of their sign, read as an integer: two maxima, ten times faster than
    isfinite.
    """
    if not stored.size:
        return True
    bits = np.ascontiguousarray(stored).view(_INTEGER[numpy_dtype(name).itemsize])
    infinity = _INFINITY[name]
    negative = bits.view(f"<i{bits.itemsize}")
    sign = 1 << (8 * bits.itemsize - 1)
    return int(negative.max()) < infinity and int(bits.max()) < sign + infinity
