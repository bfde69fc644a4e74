"""What the first bytes of an audio file say: its format, and how large the file should be.

    format_of(b"RIFF" + ...)             "WAV"; None: not one that is read
    promised_bytes(b"RIFF" + ...)        96044: by the size its writer put into the header; None: it does not say

libsndfile takes a truncated file of a format without checksums for a whole one that is shorter, so `audio` compares
these sizes with the file's. A writer into a pipe does not know the size beforehand and writes a placeholder, which
counts as unknown: 0 or 0xFFFFFFFF (FFmpeg, mpg123), or the size of a header with a data chunk of 0x7FFFF000 bytes
(SoX, espeak-ng), 0x7FFFFF00 (arecord) or 0x7FFFFFFF.
"""

from __future__ import annotations

import re
from collections.abc import Callable

HEAD_BYTES = 1024  # the header of a SPHERE file; the others say what they are in fewer
NAMES = "WAV, FLAC, Ogg, Opus, MP3, AIFF, AU, CAF, W64 or NIST SPHERE"

_W64 = bytes.fromhex("72696666 2e91 cf11 a5d6 28db 04c10000")  # the GUID of its outermost chunk
_CHUNK_PREFIX = 8  # bytes of a chunk's name and size, which the size does not count
_UNKNOWN = (0, 0xFFFFFFFF)
_DATA_OF_PIPES = (0x7FFFF000, 0x7FFFFF00, 0x7FFFFFFF)
_HEADERS_OF_PIPES = range(36, 129)  # bytes that the outermost chunk holds before the samples
_LARGEST = 1 << 60  # a 64-bit size beyond that is a placeholder too


def format_of(head: bytes) -> str | None:
    """The format of a file by its first bytes, None where it is not one of NAMES."""
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "WAV" if head[:4] == b"RIFF" else "RF64"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[: len(_W64)] == _W64:
        return "W64"
    if head[:8] == b"NIST_1A\n":
        return "SPHERE"
    plain = {b"fLaC": "FLAC", b"OggS": "Ogg", b".snd": "AU", b"dns.": "AU", b"caff": "CAF"}.get(head[:4])
    mpeg = head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
    return plain or ("MP3" if mpeg else None)


def promised_bytes(head: bytes) -> int | None:
    """Size of the whole file by its header; None where the format or the writer does not say."""
    sizes: dict[str | None, Callable[[bytes], int | None]] = {
        "WAV": lambda head: _outer_chunk(int.from_bytes(head[4:8], "little")),
        "AIFF": lambda head: _outer_chunk(int.from_bytes(head[4:8], "big")),
        "RF64": _rf64,
        "W64": lambda head: _plausible(int.from_bytes(head[16:24], "little")),
        "AU": _au,
        "SPHERE": _sphere,
    }
    size = sizes.get(format_of(head))
    return size(head) if size is not None else None


def _outer_chunk(size: int) -> int | None:
    if size in _UNKNOWN or any(size - data in _HEADERS_OF_PIPES for data in _DATA_OF_PIPES):
        return None
    return size + _CHUNK_PREFIX


def _rf64(head: bytes) -> int | None:
    """Its size is in the chunk after the name: ds64, of 64 bits."""
    size = _plausible(int.from_bytes(head[20:28], "little")) if head[12:16] == b"ds64" else None
    return size + _CHUNK_PREFIX if size is not None else None


def _au(head: bytes) -> int | None:
    order = "big" if head[:4] == b".snd" else "little"
    start, data = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
    return None if data in _UNKNOWN else start + data


def _sphere(head: bytes) -> int | None:
    """By the lines of its header; those of compressed samples do not give bytes."""
    if b"sample_coding -s" in head and not re.search(rb"sample_coding -s\d+ (pcm|ulaw|alaw|mu-law)\s", head):
        return None
    start = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", head)
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    found = [re.search(rb"\n" + name + rb" -\w+ (\d{1,15})\s", head) for name in names]  # libsndfile writes `-s1 1`
    if start is None or found[0] is None or found[1] is None:
        return None
    channels = int(found[2][1]) if found[2] is not None else 1
    return int(start[1]) + int(found[0][1]) * int(found[1][1]) * channels


def _plausible(size: int) -> int | None:
    return size if 0 < size < _LARGEST else None
