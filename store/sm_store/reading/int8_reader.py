"""Records of features kept as int8: codes and scales are read, checked, and multiplied into the caller's buffer.

As `reader.Reader`, of which it has two: one for the codes, one for the scales.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from sm_store.dtypes import numpy_dtype
from sm_store.int8 import dequantize
from sm_store.reading.reader import Reader
from sm_store.threads import in_threads


class Int8Reader:
    """Reads features in the store's dtype; `stream` describes them as they are read, not as they lie."""

    def __init__(self, codes: Reader, scales: Reader, dtype: str) -> None:
        self.stream = replace(codes.stream, dtype=numpy_dtype(dtype))
        self._codes, self._scales, self._dtype = codes, scales, dtype

    def fill(self, indices: np.ndarray, buffer: np.ndarray, stride: int) -> None:
        """As `Reader.fill`."""
        codes, scales = self.parts(indices)

        def one(place: int) -> None:
            start, row_bytes = place * stride, self.stream.row_bytes
            size = len(scales[place]) * row_bytes
            rows = buffer[start : start + size].view(self.stream.dtype).reshape(codes[place].shape)
            dequantize(codes[place], scales[place], rows, self._dtype)
            buffer[start + size : start + stride] = 0

        in_threads([partial(one, place) for place in range(len(indices))])

    def flat(self, indices: np.ndarray) -> list[np.ndarray]:
        """As `Reader.flat`."""
        rows = []
        for codes, scales in zip(*self.parts(indices), strict=True):
            rows.append(np.empty(codes.shape, self.stream.dtype))
            dequantize(codes, scales, rows[-1], self._dtype)
        return rows

    def parts(self, indices: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Codes (T, D) int8 and scales (T,) float32 of each record."""
        return self._codes.flat(indices), self._scales.flat(indices)
