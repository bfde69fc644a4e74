"""Records' bytes from files into a buffer."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from sm_store import StoreCorrupt
from sm_store.durable import Written, checksum
from sm_store.errors import ConfigError
from sm_store.reading.files import ShardFiles
from sm_store.reading.reader import Reader, Stream


@pytest.fixture
def rows(tmp_path):
    """20 records of (n, 3) int16 in two files, and the stream that describes them."""
    rng = np.random.default_rng(2)
    records = [rng.integers(-9, 9, (int(n), 3)).astype("<i2") for n in rng.integers(0, 7, 20)]
    counts = np.asarray([len(record) for record in records])
    offsets = np.concatenate([np.cumsum(half * 6) - half * 6 for half in (counts[:12], counts[12:])]) + 5
    for name, part in (("a", records[:12]), ("b", records[12:])):
        (tmp_path / name).write_bytes(b"*" * 5 + b"".join(record.tobytes() for record in part))
    sums = np.asarray([checksum(record) for record in records], np.uint32)
    promised = [Written((tmp_path / name).stat().st_size, 0) for name in "ab"]
    shards = np.asarray([4, 9])
    stream = Stream(
        "rows", (3,), np.dtype("<i2"), counts, offsets, sums, np.asarray([0, 12, 20]), shards, "ab", promised
    )
    return tmp_path, records, stream


@pytest.mark.parametrize("policy", ["always", "first-epoch", "never"])
def test_reader_fills_and_zeroes(rows, policy):
    root, records, stream = rows
    stream.check(ShardFiles(root))
    reader = Reader(ShardFiles(root), stream, policy)
    wanted = np.asarray([3, 19, 0, 12, 11, 3])
    stride = 6 * 7
    buffer = np.full(len(wanted) * stride, 255, np.uint8)
    reader.fill(wanted, buffer, stride)
    for number, index in enumerate(wanted):
        own = buffer[number * stride : (number + 1) * stride]
        data = records[index].tobytes()
        assert own[: len(data)].tobytes() == data and not own[len(data) :].any()
    flat = reader.flat(wanted)
    assert [entry.tolist() for entry in flat] == [records[index].tolist() for index in wanted]
    assert reader.flat(np.asarray([], np.int64)) == []


def test_reader_goes_on_after_short_reads(rows, monkeypatch):
    root, records, stream = rows
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, pieces, offset, flags=0: real(fd, [pieces[0][:5]], offset))
    flat = Reader(ShardFiles(root), stream, "always").flat(np.arange(20))
    assert [entry.tolist() for entry in flat] == [record.tolist() for record in records]


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EOPNOTSUPP, None])
def test_reader_waits_for_the_disk_where_the_cache_has_not_all(rows, monkeypatch, error):
    """Not in the page cache, a file system that cannot tell, or only a part of it there."""
    root, records, stream = rows
    real, waited = os.preadv, []

    def preadv(fd, pieces, offset, flags=0):
        if flags & os.RWF_NOWAIT:
            if error is not None:
                raise OSError(error, os.strerror(error))
            return real(fd, [pieces[0][:1]], offset)
        waited.append(offset)
        return real(fd, pieces, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    flat = Reader(ShardFiles(root), stream, "always").flat(np.arange(20))
    assert [entry.tolist() for entry in flat] == [record.tolist() for record in records]
    assert waited


def test_reader_refuses_files_of_another_size(rows):
    root, _, stream = rows
    with (root / "b").open("ab") as out:
        out.write(b"x")
    reader = Reader(ShardFiles(root), stream, "never")
    reader.flat(np.asarray([0]))
    with pytest.raises(StoreCorrupt, match="bytes where"):
        reader.flat(np.asarray([19]))
    with pytest.raises(StoreCorrupt, match=r"shard 9 \(rows\)"):
        stream.check(ShardFiles(root))


def test_reader_names_the_record(rows):
    root, records, stream = rows
    index = next(i for i in range(12, 20) if len(records[i]))
    with (root / "b").open("r+b") as out:
        out.seek(int(stream.offsets[index]))
        out.write(b"\xff\xff\xff\xff\xff\xff")
    with pytest.raises(StoreCorrupt, match=rf"shard 9 record {index - 12} \(rows\): bytes differ"):
        Reader(ShardFiles(root), stream, "always").flat(np.arange(20))


def test_unknown_policy(rows):
    with pytest.raises(ConfigError, match="checksum policy 'sometimes'"):
        Reader(ShardFiles(rows[0]), rows[2], "sometimes")
