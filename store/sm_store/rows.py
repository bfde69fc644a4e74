"""What each record has rows of: features, scales, token ids, embeddings. Written, indexed, read and verified by this.

kind          array and key in `data`   tar member                 rows     catalog columns
features      features                  KEY.features.npy           frames   offset, stored, crc32c
scales        scales                    KEY.features.scales.npy    frames   scales_offset, scales_crc32c
embeddings    embeddings                KEY.llama.npy              vectors  offset, stored, crc32c
tokens        tokens                    KEY.llama.tokens.npy       tokens   tokens_offset, tokens_crc32c

feature_rows(identity)                  features; of an int8 store its codes, and scales
target_rows(spec, compression)          tokens, and for a `dense` set embeddings before them
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sm_store.codec import Codec, codec_of
from sm_store.dtypes import numpy_dtype
from sm_store.identity import Identity
from sm_store.records import TargetSpec

_INTEGERS: dict[str, np.dtype] = {"int32": np.dtype("<i4"), "int8": np.dtype("i1")}


@dataclass(frozen=True, slots=True)
class RowKind:
    """One kind of rows, of which each record of a shard has some.

    Attributes:
        array: name of the Zarr array, and key of its file in a part's `data`.
        member: extension of the member in a tar sample.
        label: for error messages.
        counts: catalog column with the number of rows of each record.
        width: numbers per row; None: a row is one number.
        dtype: a storage dtype, `int32` or `int8`.
        prefix: of the catalog columns that say where the rows are.
        codec: None: rows are stored as they are.
    """

    array: str
    member: str
    label: str
    counts: str
    width: int | None
    dtype: str
    prefix: str = ""
    codec: Codec | None = None

    @property
    def numpy_dtype(self) -> np.dtype:
        return _INTEGERS[self.dtype] if self.dtype in _INTEGERS else numpy_dtype(self.dtype)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """() or (width,)."""
        return () if self.width is None else (self.width,)

    @property
    def row_bytes(self) -> int:
        return self.numpy_dtype.itemsize * (self.width or 1)

    @property
    def columns(self) -> list[str]:
        """The catalog columns that say where the rows are."""
        return [self.prefix + name for name in extent_columns(self.prefix)]


def extent_columns(prefix: str) -> tuple[str, ...]:
    """Names, without their prefix, of the catalog columns that say where rows are."""
    return ("offset", "crc32c") if prefix else ("offset", "stored", "crc32c")


def feature_rows(identity: Identity) -> list[RowKind]:
    """What a store of this identity keeps of a record's features."""
    width, name = identity.width, "features"
    if identity.quantized:
        codes = RowKind(name, f"{name}.npy", name, "frames", width, "int8")
        scales = RowKind("scales", f"{name}.scales.npy", f"scales of {name}", "frames", None, "float32", "scales_")
        return [codes, scales]
    codec = codec_of(identity.compression, numpy_dtype(identity.dtype).itemsize)
    return [RowKind(name, f"{name}.npy", name, "frames", width, identity.dtype, codec=codec)]


def target_rows(spec: TargetSpec, compression: str | None) -> list[RowKind]:
    """What a target set keeps of a record, in a store of this compression."""
    label = f"targets {spec.name}"
    tokens = RowKind("tokens", f"{spec.name}.tokens.npy", f"token ids of {label}", "tokens", None, "int32", "tokens_")
    if spec.kind == "table":
        return [tokens]
    codec = codec_of(compression, numpy_dtype(spec.dtype).itemsize)
    dense = RowKind("embeddings", f"{spec.name}.npy", label, "vectors", spec.width, spec.dtype, codec=codec)
    return [dense, tokens]
