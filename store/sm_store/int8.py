"""Features as int8 with one scale per frame: about half the bytes of float16; the loss is measured and recorded.

    q = quantize(features, "float16")     (T, D) float16 -> codes (T, D) int8, scales (T,) float32, error 0.0057
    q.features("float16")                 (T, D) float16: each frame's codes times its scale

A frame's greatest magnitude becomes 127: scale = max |x| / 127, code = x / scale rounded to even. So every number
is off by at most half its frame's scale, and then by rounding to the store's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sm_store.dtypes import numpy_dtype, to_float32, to_storage

NAME = "int8"  # in an identity's `compression`
_MOST = 127


@dataclass(frozen=True, slots=True)
class Quantized:
    """One record's features as int8.

    Attributes:
        codes: (T, D) int8. scales: (T,) float32.
        error: relative: root of the squared differences' sum over the squares' sum, both of the whole record.
    """

    codes: np.ndarray
    scales: np.ndarray
    error: float

    def features(self, dtype: str) -> np.ndarray:
        """(T, D) in a storage dtype."""
        out = np.empty(self.codes.shape, numpy_dtype(dtype))
        dequantize(self.codes, self.scales, out, dtype)
        return out


def quantize(features: np.ndarray, dtype: str) -> Quantized:
    """(T, D) finite features, in the storage dtype `dtype`, as int8."""
    numbers = to_float32(features, dtype)
    most = np.abs(numbers).max(axis=1, initial=0)
    scales = most / np.float32(_MOST)
    with np.errstate(over="ignore"):  # where rounding up would overflow float32
        scales = np.where(np.isfinite(scales * _MOST), scales, np.nextafter(scales, np.float32(0)))
    exact = np.divide(numbers, scales[:, None], out=np.zeros_like(numbers), where=scales[:, None] > 0)
    codes = np.clip(np.rint(exact), -_MOST, _MOST).astype(np.int8)
    kept = Quantized(codes, scales, 0.0)
    lost = numbers.astype(np.float64) - to_float32(kept.features(dtype), dtype)
    power = float(np.square(numbers, dtype=np.float64).sum())
    error = float(np.sqrt(np.square(lost).sum() / power)) if power > 0 else 0.0
    return Quantized(codes, scales, error)


def dequantize(codes: np.ndarray, scales: np.ndarray, out: np.ndarray, dtype: str) -> None:
    """codes (T, D) int8 times scales (T,) float32 into `out` (T, D), rounded once, to its storage dtype."""
    if dtype == "bfloat16":
        out[...] = to_storage(codes * scales[:, None], dtype)
    else:
        np.multiply(codes, scales[:, None], out=out, dtype=np.float32, casting="same_kind")
