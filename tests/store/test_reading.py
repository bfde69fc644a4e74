"""Planning reads, executing them, and the memory they go to."""

from __future__ import annotations

import errno
import gc
import os
import sys
import tracemalloc

import numpy as np
import pytest

from sm_store import Store, StoreCorrupt, StoreError
from sm_store.durable import Written, checksum
from sm_store.errors import ConfigError
from sm_store.reading.buffers import BufferPool
from sm_store.reading.files import ShardFiles
from sm_store.reading.plan_reads import Run, plan_reads
from sm_store.reading.reader import Reader, Stream
from tests.store import building


def plan(files, offsets, sizes, dests):
    return plan_reads(*(np.asarray(values, np.int64) for values in (files, offsets, sizes, dests)))


def test_neighbours_become_one_read():
    runs = plan([0, 0, 0], [9000, 3000, 10024], [1024, 2048, 1024], [0, 6144, 12288])
    assert runs == [Run(0, 3000, [1], [6144], [2048]), Run(0, 9000, [0, 2], [0, 12288], [1024, 1024])]


def test_files_are_kept_apart_and_empty_records_left_out():
    runs = plan([1, 0, 1, 0], [0, 100, 50, 7], [50, 10, 5, 0], [0, 1, 2, 3])
    assert runs == [Run(0, 100, [1], [1], [10]), Run(1, 0, [0, 2], [0, 2], [50, 5])]


def test_nothing_to_read():
    assert plan([], [], [], []) == [] == plan([0], [3], [0], [0])


def test_the_same_record_twice_is_read_twice():
    assert len(plan([0, 0], [5, 5], [3, 3], [0, 10])) == 2


def test_long_runs_are_cut():
    count = 1300
    runs = plan([0] * count, np.arange(count) * 4, [4] * count, np.arange(count) * 8)
    assert [len(run.wanted) for run in runs] == [512, 512, 276]
    assert [run.offset for run in runs] == [0, 2048, 4096]


def test_every_byte_is_planned_once():
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 9, 200)
    offsets = np.cumsum(sizes) - sizes
    pick = rng.permutation(200)[:150]
    runs = plan(np.zeros(150), offsets[pick], sizes[pick], np.arange(150) * 10)
    got = {
        w: (run.offset + sum(run.sizes[:i]), run.dests[i], run.sizes[i])
        for run in runs
        for i, w in enumerate(run.wanted)
    }
    expected = {i: (offsets[p], i * 10, sizes[p]) for i, p in enumerate(pick) if sizes[p]}
    assert got == expected


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


def test_no_more_than_so_many_files_stay_open(tmp_path):
    for number in range(300):
        (tmp_path / str(number)).write_bytes(b"1")
    files = ShardFiles(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    held = files.get("0", Written(1, 0))
    for number in range(300):
        files.get(str(number), Written(1, 0))
    assert len(os.listdir("/proc/self/fd")) <= before + 257
    assert os.pread(held.fd, 1, 0) == b"1"  # still open for who holds it
    del files, held
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("compression", [None, "zstd:1", "int8"])
def test_a_reader_holds_no_more_than_the_batches_in_flight(tmp_path, layout, compression):
    store = Store.create(
        tmp_path / "s", building.identity(layout=layout, compression=compression, encoder={"width": 4096})
    )
    for shard in range(4):
        store.commit(shard, building.records(shard, count=30, width=4096), [])
    store, rng = Store.open(tmp_path / "s"), np.random.default_rng(0)
    whole = int(store.frames.sum()) * 8192
    tracemalloc.start()
    largest = 0
    for _ in range(30):
        batch = store.read(rng.permutation(120)[:8])
        largest = max(largest, batch.features_BTD.nbytes)
    peak = tracemalloc.get_traced_memory()[1] + store._view._batches._pools[False].idle_bytes()
    tracemalloc.stop()
    assert peak < 6 * largest + 4e6 < 0.8 * whole  # one in use, three kept for the next, codes and blocks on the way


def test_memory_is_used_again_once_it_is_free():
    pool = BufferPool()
    first = pool.take(1000)
    address = first.ctypes.data
    view = first[:8].view(np.float32).reshape(2, 1)
    del first
    assert pool.idle_bytes() == 0 and pool.take(1000).ctypes.data != address  # the view still needs it
    del view
    again = pool.take(2000)
    assert again.ctypes.data == address or pool.take(2000).ctypes.data == address


def test_blocks_in_use_never_overlap():
    pool = BufferPool()
    blocks = [pool.take(4096) for _ in range(8)]
    for number, block in enumerate(blocks):
        block[:] = number
    assert [int(block.max()) for block in blocks] == [int(block.min()) for block in blocks] == list(range(8))


def test_the_pool_keeps_little():
    pool = BufferPool(keep=2)
    blocks = [pool.take(10_000_000) for _ in range(6)]
    del blocks
    assert pool.idle_bytes() <= 2 * 16_000_000


def test_huge_idle_memory_is_not_taken_for_small_requests():
    pool = BufferPool()
    pool.take(100_000_000)
    assert pool.idle_bytes() > 100_000_000
    small = pool.take(1_000_000)
    assert pool.idle_bytes() > 100_000_000 and len(small) == 1_000_000


def test_tensors_keep_their_batch_alive(tmp_path):
    torch = pytest.importorskip("torch")
    store = building.build(tmp_path / "s", kind=None)
    tensor = torch.from_numpy(store.read([0, 1]).features_BTD)
    copy = tensor.clone()
    for index in range(15):
        store.read([index, index])
    assert torch.equal(tensor, copy)


def test_pinned_reading_needs_torch_and_gives_the_same(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    store = building.build(tmp_path / "s")
    plain, pinned = store.read([1, 2], "llm"), store.read([1, 2], "llm", pin=True)
    assert plain.features_BTD.tobytes() == pinned.features_BTD.tobytes()
    assert torch.from_numpy(pinned.features_BTD).is_pinned() == torch.cuda.is_available()
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(StoreError, match="needs torch"):
        Store.open(tmp_path / "s").read([1], pin=True)


def test_the_store_itself_loads_no_torch(tmp_path):
    import subprocess

    building.build(tmp_path / "s")
    code = "import sys; from sm_store import Store; Store.open(sys.argv[1]).read([0], 'llm'); "
    code += "sys.exit('torch' in sys.modules or 'zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")]).returncode == 0
