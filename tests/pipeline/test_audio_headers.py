"""What the first bytes say: formats, sizes, and sizes that mean unknown; compared with libsndfile's own files."""

from __future__ import annotations

import struct

import pytest
import soundfile

from sm_pipeline.audio_headers import HEAD_BYTES, format_of, promised_bytes
from tests.speech import tone

KINDS = [
    ("WAV", "WAV", "PCM_16"),
    ("WAV", "WAVEX", "FLOAT"),
    ("RF64", "RF64", "PCM_24"),
    ("AIFF", "AIFF", "PCM_16"),
    ("AIFF", "AIFF", "FLOAT"),  # AIFC
    ("AU", "AU", "ULAW"),
    ("CAF", "CAF", "PCM_16"),
    ("W64", "W64", "PCM_16"),
    ("SPHERE", "NIST", "PCM_16"),
    ("SPHERE", "NIST", "ULAW"),
    ("FLAC", "FLAC", "PCM_16"),
    ("Ogg", "OGG", "VORBIS"),
    ("Ogg", "OGG", "OPUS"),
    ("MP3", "MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("name", "written", "subtype"), KINDS)
def test_formats_and_their_sizes(tmp_path, name, written, subtype):
    path = tmp_path / "a"
    soundfile.write(path, tone(0.5), 16_000, format=written, subtype=subtype)
    data = path.read_bytes()
    assert format_of(data[:HEAD_BYTES]) == name
    promised = promised_bytes(data[:HEAD_BYTES])
    if name in ("CAF", "FLAC", "Ogg", "MP3"):
        assert promised is None
    else:
        assert abs(promised - len(data)) <= 1  # a chunk of odd size is followed by a byte that some do not count


@pytest.mark.parametrize("head", [b"", b"R", b"RIFF", b"RIFF\0\0\0\0AVI ", b"\0\0\0\x18ftypmp42", b"<html>", b"\xff"])
def test_what_is_none_of_them(head):
    assert format_of(head) is None
    assert promised_bytes(head) is None


@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0x7FFFF024, 0x7FFFF000 + 50, 0x7FFFFF24, 0x7FFFFFFF + 36, 0x7FFFFFFF + 38]
)
def test_sizes_of_writers_into_pipes_mean_unknown(size):
    assert promised_bytes(b"RIFF" + struct.pack("<I", size) + b"WAVEfmt ") is None
    assert promised_bytes(b"FORM" + struct.pack(">I", size) + b"AIFFCOMM") is None


@pytest.mark.parametrize("size", [36, 96_036, 0x7FFFEFFF, 0x80000000, 0xFFFFFFF0])
def test_other_sizes_are_promises(size):
    assert promised_bytes(b"RIFF" + struct.pack("<I", size) + b"WAVEfmt ") == size + 8


def test_placeholders_of_the_other_formats():
    assert promised_bytes(b".snd" + struct.pack(">II", 24, 0xFFFFFFFF)) is None
    assert promised_bytes(b"dns." + struct.pack("<II", 24, 100)) == 124
    w64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
    assert promised_bytes(w64 + b"\xff" * 8) is None
    assert promised_bytes(b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + b"\xff" * 8) is None
    assert promised_bytes(b"NIST_1A\n   1024\nchannel_count -i 1\nend_head\n") is None
    shorten = b"sample_count -i 9\nsample_n_bytes -i 2\nsample_coding -s26 pcm,embedded-shorten-v2.00\n"
    assert promised_bytes(b"NIST_1A\n   1024\n" + shorten) is None
