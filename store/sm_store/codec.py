"""Compression as a choice per store: none by default, or a lossless codec of numcodecs around blocks of rows.

    codec = codec_of("zstd:1", itemsize=2)
    data = codec.encode(rows)                  one block
    codec.decode(data, out)                    into exactly as many bytes as it had
    codec.zarr()                               its metadata in a Zarr v3 array

A codec's name is part of the store's identity, and a promise: the same name always writes the same form.
Speech features of float16 are close to noise, so lossless codecs save little; padded targets repeat themselves.
The lossy choice, `int8`, is not a codec around rows but another representation of the features: `sm_store.int8`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np

from sm_store.errors import ConfigError
from sm_store.int8 import NAME as INT8

# What a user chooses, and the codec it means in this release.
CHOICES = {"none": None, "zstd": "zstd:1", "blosc": "blosc:lz4:5:bitshuffle", "int8": INT8}
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_NAMES = ("lz4", "zstd")


@dataclass(frozen=True, slots=True)
class Codec:
    """A lossless codec of rows of one item size.

    Attributes:
        name: as in the identity. suffix: of a tar member that it encoded.
        metadata: of Zarr v3. numcodec: the encoder and decoder.
    """

    name: str
    suffix: str
    metadata: dict[str, Any]
    numcodec: Any

    def encode(self, rows: np.ndarray) -> bytes:
        """One block; a C-contiguous array."""
        # Blosc's threads write what they encode in the order they finish: the same rows, other bytes.
        threads = numcodecs.blosc.set_nthreads(1)
        try:
            return bytes(self.numcodec.encode(rows.reshape(-1).view(np.uint8)))
        finally:
            numcodecs.blosc.set_nthreads(threads)

    def decode(self, data: Any, out: np.ndarray) -> None:
        """Decode one block into `out` (uint8), filling it.

        Raises:
            ValueError: not a block of this codec, or not of that many bytes. Never allocates by what it says.
        """
        if self.numcodec.codec_id == "blosc":
            _check_blosc(data, out)
        try:
            self.numcodec.decode(data, out)
        except RuntimeError as error:
            raise ValueError(str(error)) from None


def codec_of(name: str | None, itemsize: int) -> Codec | None:
    """The codec of an identity's `compression`, for items of `itemsize` bytes; None for none, and for `int8`.

    Raises:
        ConfigError: no codec of that name.
    """
    if name is None or name == INT8:
        return None
    kind, *settings = name.split(":")
    makers: dict[str, Callable[[str, list[str], int], Codec]] = {"zstd": _zstd, "blosc": _blosc}
    try:
        return makers[kind](name, settings, itemsize)
    except (KeyError, ValueError):
        raise ConfigError(f"store compression {name!r}: choose {', '.join(CHOICES)}") from None


def _zstd(name: str, settings: list[str], itemsize: int) -> Codec:
    (level,) = map(int, settings)
    if not 1 <= level <= 19:
        raise ValueError(level)
    metadata = {"name": "zstd", "configuration": {"level": level, "checksum": False}}
    return Codec(name, ".zst", metadata, numcodecs.Zstd(level=level))


def _blosc(name: str, settings: list[str], itemsize: int) -> Codec:
    cname, level, shuffle = settings
    if cname not in _BLOSC_NAMES or not 1 <= int(level) <= 9:
        raise ValueError(name)
    configuration = {"typesize": itemsize, "cname": cname, "clevel": int(level), "shuffle": shuffle, "blocksize": 0}
    numcodec = numcodecs.Blosc(cname=cname, clevel=int(level), shuffle=_SHUFFLES[shuffle], typesize=itemsize)
    return Codec(name, ".blosc", {"name": "blosc", "configuration": configuration}, numcodec)


def _check_blosc(data: Any, out: np.ndarray) -> None:
    """Blosc trusts the sizes in a block's header; they are checked against the actual sizes first."""
    header = bytes(memoryview(data)[:16])
    sizes = [int.from_bytes(header[at : at + 4], "little") for at in (4, 12)]
    if len(header) < 16 or sizes != [out.nbytes, len(memoryview(data))]:
        raise ValueError("a blosc block whose header does not fit it")
