"""Stores at URLs, by fsspec's memory file system: the same records, fetched once, within the bound, and checked."""

from __future__ import annotations

import copy
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from sm_store import Record, Store, StoreCorrupt, StoreError, StoreMissing, durable
from sm_store.convert import export, merge
from sm_store.errors import ConfigError
from sm_store.reading.remote import CACHE, CACHE_GB, Cache, url_of
from sm_store.status import status
from sm_store.verify import discard, verify
from tests.store import building

URL = "memory://bucket/corpus.store"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))


@pytest.fixture
def bucket():
    """The memory file system, emptied afterwards."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/bucket", recursive=True)


def put(fs, path, url=URL):
    """Copy a store to the bucket."""
    if fs.exists(url):
        fs.rm(url, recursive=True)
    fs.put(f"{path}/", f"{url}/", recursive=True)
    return url


def cached(tmp_path):
    """Shard files in the cache."""
    return sorted(path.name for path in tmp_path.glob("cache/*/data/*"))


def fetched(fs, monkeypatch):
    """Paths that are opened for reading from now on."""
    seen, real = [], type(fs).open

    def opened(self, path, *args, **kwargs):
        seen.append(path.split("corpus.store/")[-1])
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(type(fs), "open", opened)
    return seen


def same(one, two):
    left, right = (store.read(range(len(store)), "llm") for store in (one, two))
    fields = ("features_BTD", "frames_B", "targets_BUE", "vectors_B", "tokens_B")
    return all(getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in fields)


def test_a_store_at_a_url_is_the_store(tmp_path, bucket, layout, kind, compression):
    local = building.build(tmp_path / "s", layout=layout, kind=kind, compression=compression)
    remote = Store.open(put(bucket, tmp_path / "s"))
    assert remote.identity == local.identity and len(remote) == 15 and remote.target_names == ["llm"]
    assert same(remote, local)
    assert [each.features.tobytes() for each in remote] == [each.features.tobytes() for each in local]
    assert remote.catalog.equals(local.catalog) and remote.rejects() == local.rejects()
    assert remote.select(split="dev").tolist() == local.select(split="dev").tolist()
    assert np.array_equal(remote.targets("llm").table, local.targets("llm").table)
    remote.targets("llm").check_tokenizer()
    assert remote.path == URL and status(remote) == {**status(local), "path": URL}


def test_nothing_is_fetched_twice_and_data_not_before_it_is_read(tmp_path, bucket, monkeypatch, layout):
    local = building.build(tmp_path / "s", layout=layout)
    url, seen = put(bucket, tmp_path / "s"), fetched(bucket, monkeypatch)
    remote = Store.open(url)
    assert {"store.json", "catalog/00000.parquet", "targets/llm/table.npy"} <= set(seen)
    assert not any("shards/" in name for name in seen) and cached(tmp_path) == []
    assert len(seen) == len(set(seen))
    del seen[:]
    remote.read([0, 1])
    assert seen == [local.parts[0].data["features"]]
    remote.read([0, 4])
    again = Store.open(url)
    again.read([2], "llm")
    targets = [] if layout == "webdataset" else ["embeddings/c/0/0", "tokens/c/0"]
    assert sorted(seen[1:]) == [f"targets/llm/shards/00000/{name}" for name in targets]


def test_what_changed_is_fetched_again(tmp_path, bucket, monkeypatch, layout):
    building.write(tmp_path / "s", layout=layout, shards=1)
    url = put(bucket, tmp_path / "s")
    first = Store.open(url)
    first.read(range(5), "llm")
    store = Store.open(tmp_path / "s")
    made = building.records(1)
    store.commit(1, made, building.rejects(1), {"llm": building.token_ids(1, made)})
    store.add_target_set(building.target_spec("more", kind="table"), building.table(), building.TOKENIZER)
    for name in sorted(set(building.tree(tmp_path / "s"))):
        if not bucket.exists(f"{url}/{name}") or name == "store.json":
            bucket.put_file(str(tmp_path / "s" / name), f"{url}/{name}")
    seen = fetched(bucket, monkeypatch)
    second = Store.open(url)
    assert len(first) == 5 and len(second) == 10 and second.target_names == ["llm", "more"]
    assert "store.json" in seen and "catalog/00001.parquet" in seen and "catalog/00000.parquet" not in seen
    assert same(second, store)
    store.drop_target_set("more")
    bucket.rm(f"{url}/targets/more", recursive=True)
    bucket.put_file(str(tmp_path / "s/store.json"), f"{url}/store.json")
    assert Store.open(url).target_names == ["llm"]
    assert not list(tmp_path.glob("cache/*/store/targets/more/*.json"))


def test_another_store_at_the_same_url_is_not_mixed_up_with_the_first(tmp_path, bucket, layout):
    building.build(tmp_path / "s", layout=layout)
    Store.open(put(bucket, tmp_path / "s")).read(range(15), "llm")
    other = Store.create(tmp_path / "other", building.identity(layout=layout, manifest_sha256="ef"))
    for shard in range(3):
        records = [Record(each.id, each.features[::-1].copy(), each.fields) for each in building.records(shard)]
        other.commit(shard, records, [])
    remote = Store.open(put(bucket, tmp_path / "other"))
    assert remote.identity == other.identity and remote.target_names == []
    assert remote.read(range(15)).features_BTD.tobytes() == other.read(range(15)).features_BTD.tobytes()


def test_the_cache_stays_within_its_bound(tmp_path, bucket, layout):
    local = building.build(tmp_path / "s", layout=layout, kind=None)
    files = [entry for part in local.parts for name, entry in part.files.items() if name in part.data.values()]
    bound = max(files[0].size + files[1].size, files[1].size + files[2].size)
    remote = Store.open(put(bucket, tmp_path / "s"), cache=Cache(tmp_path / "cache", bound))
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(15)[:6]
        assert remote.read(order).features_BTD.tobytes() == local.read(order).features_BTD.tobytes()
        assert sum(path.stat().st_size for path in tmp_path.glob("cache/*/data/*")) <= bound
    remote.read([0])
    time.sleep(0.02)
    remote.read([14])
    time.sleep(0.02)
    remote.read([0])
    time.sleep(0.02)
    remote.read([7])  # the third shard was unused for longest
    assert [name.split(",", 1)[1][:5] for name in sorted(cached(tmp_path), key=lambda name: name.split("-")[2])] == [
        "00000",
        "00001",
    ]


def test_a_bound_below_one_file_is_said(tmp_path, bucket, monkeypatch):
    building.build(tmp_path / "s", kind=None)
    monkeypatch.setenv(CACHE_GB, "0.0000001")
    remote = Store.open(put(bucket, tmp_path / "s"))
    with pytest.raises(ConfigError, match=rf"{CACHE_GB}: {URL}/shards/0000./features/c/0/0 alone takes .* give more"):
        remote.read([0])


@pytest.mark.parametrize("wrong", ["", "0", "-1", "nan", "inf", "many"])
def test_impossible_bounds(monkeypatch, wrong):
    monkeypatch.setenv(CACHE_GB, wrong)
    if wrong:
        with pytest.raises(ConfigError, match=f"{CACHE_GB}={wrong}: give a positive number of gigabytes"):
            Cache.default()
    else:
        assert Cache.default().most_bytes == 50e9


def test_damage_on_the_way_is_noticed_and_not_kept(tmp_path, bucket, layout):
    local = building.build(tmp_path / "s", layout=layout)
    url = put(bucket, tmp_path / "s")
    file = local.parts[1].data["features"]
    good = bucket.cat(f"{url}/{file}")
    for place in np.random.default_rng(0).integers(0, len(good), 20).tolist():
        bucket.pipe(f"{url}/{file}", good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(StoreCorrupt, match=rf"{url}/{file}: bytes differ from what was written"):
            Store.open(url, checksums="never").read([5])
        assert not any("00001" in name for name in cached(tmp_path))
    for short in (good[:-1], good + b"\0", b""):
        bucket.pipe(f"{url}/{file}", short)
        with pytest.raises(StoreCorrupt, match=rf"{url}/{file}: {len(short)} bytes where {len(good)} were written"):
            Store.open(url)
    bucket.rm(f"{url}/{file}")
    with pytest.raises(StoreCorrupt, match=rf"{url}/{file}: missing"):
        Store.open(url)
    bucket.pipe(f"{url}/{file}", good)
    remote = Store.open(url)
    bucket.rm(f"{url}/{file}")  # after it was opened
    with pytest.raises(StoreError, match=rf"{url}/{file}: nothing there"):
        remote.read([5])
    bucket.pipe(f"{url}/{file}", good)
    assert same(remote, local)


def test_damage_in_the_cache_is_noticed(tmp_path, bucket, layout):
    local = building.build(tmp_path / "s", layout=layout)
    url = put(bucket, tmp_path / "s")
    Store.open(url).read(range(15), "llm")
    for path in tmp_path.glob("cache/*/data/*"):
        path.write_bytes(path.read_bytes()[:-1])  # a cut file is fetched again
    assert same(Store.open(url), local)
    for path in tmp_path.glob("cache/*/data/*"):
        data = bytearray(path.read_bytes())
        for place in range(0, len(data), 3):
            data[place] ^= 255
        path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="shard 0 record 0"):
        Store.open(url).read([0])
    for path in tmp_path.glob("cache/*/store/catalog/*.parquet"):
        path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    with pytest.raises(StoreCorrupt, match="bytes differ"):
        Store.open(url)


def test_a_mirror_that_was_stopped_is_brought_up_again(tmp_path, bucket, monkeypatch):
    local = building.build(tmp_path / "s")
    url = put(bucket, tmp_path / "s")
    real = durable.staged
    left = 9

    def stopped(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(durable, "staged", stopped)
    with pytest.raises(KeyboardInterrupt):
        Store.open(url)
    monkeypatch.setattr(durable, "staged", real)
    assert same(Store.open(url), local)


def test_what_a_killed_process_left_in_the_cache_goes(tmp_path, bucket):
    local = building.build(tmp_path / "s")
    url = put(bucket, tmp_path / "s")
    Store.open(url).read([0])
    folder = next(tmp_path.glob("cache/*/data"))
    left, held = folder / ".00000001-9-x.tmp-1-ab", folder / ".00000002-9-x.tmp-1-ab"
    left.write_bytes(b"x" * 9)
    held.write_bytes(b"x" * 9)
    with durable.locked(folder.parent, "00000002"):  # one that is fetching
        assert same(Store.open(url), local)
        assert not left.exists() and held.exists()


def read_all(url, order, failed):
    try:
        store = Store.open(url, cache=Cache(Path(os.environ[CACHE]), 20_000))
        for index in order:
            record = store[index]
            expected = building.records(index // 5)[index % 5]
            assert record.features.tobytes() == expected.features.tobytes()
    except BaseException:
        failed.set()
        raise


def test_processes_share_a_cache(tmp_path, bucket):
    building.build(tmp_path / "s", kind=None)
    url = put(bucket, tmp_path / "s")
    fork = multiprocessing.get_context("fork")  # the memory file system comes along
    failed, rng = fork.Event(), np.random.default_rng(0)
    workers = [fork.Process(target=read_all, args=(url, rng.permutation(15).tolist() * 3, failed)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failed.is_set() and [worker.exitcode for worker in workers] == [0] * 4
    assert not list(tmp_path.glob("cache/*/data/.*"))


def test_a_copy_of_a_handle_reads_the_same(tmp_path, bucket):
    building.build(tmp_path / "s")
    remote = Store.open(put(bucket, tmp_path / "s"), cache=Cache(tmp_path / "elsewhere", 10_000_000))
    again = copy.copy(remote)
    assert same(again, remote) and again.path == URL
    assert list((tmp_path / "elsewhere").glob("*/data/*")) and not cached(tmp_path)


def test_exported_and_merged_from_urls(tmp_path, bucket, layout):
    building.build(tmp_path / "s", layout=layout)
    url = put(bucket, tmp_path / "s")
    export(url, tmp_path / "copy", layout)
    expected = building.tree(tmp_path / "s")
    assert building.tree(tmp_path / "copy") == expected
    second = Store.create(tmp_path / "two", building.identity(layout=layout))
    second.commit(0, building.records(7), [])
    merge(tmp_path / "all", [Path(url), tmp_path / "two"], targets=[])  # pathlib takes a slash
    assert len(Store.open(tmp_path / "all")) == 20


def test_a_remote_store_is_never_written(tmp_path, bucket):
    local = building.build(tmp_path / "s")
    url = put(bucket, tmp_path / "s")
    before = {path: bucket.cat(path) for path in bucket.find(url)}
    remote, made = Store.open(url), building.records(3)
    attempts = [
        lambda: remote.commit(3, made, []),
        lambda: remote.commit_targets("llm", 0, []),
        lambda: remote.claim(3).__enter__(),
        lambda: remote.drop_target_set("llm"),
        lambda: remote.add_target_set(building.target_spec("x"), building.table(), building.TOKENIZER),
        remote.compact,
        lambda: Store.create("memory://bucket/new", building.identity()),
        lambda: Store.open_or_create(url, local.identity),
        lambda: export(tmp_path / "s", "memory://bucket/out", "zarr"),
        lambda: verify(url),
        lambda: discard(url, verify(tmp_path / "s")),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError, match=r"memory://bucket/.*: a store at a URL is only read"):
            attempt()
    assert {path: bucket.cat(path) for path in bucket.find(url)} == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none", r"memory://bucket/none: no store there \(store.json is missing\)"),
        ("nosuch://bucket/s", r"nosuch://bucket/s: cannot be read \(Protocol not known: nosuch\)"),
        ("s3://bucket/s", r"s3://bucket/s: s3fs is not installed; run .pip install .speechmapper\[s3\]"),
    ],
)
def test_urls_without_a_store(url, message):
    with pytest.raises(StoreError, match=message):
        Store.open(url)


def test_what_is_a_url():
    assert url_of("s3://b/x") == url_of(Path("s3://b/x")) == "s3://b/x"
    assert url_of("file:///tmp/x") == url_of(Path("file:///tmp/x")) == "file:///tmp/x"
    assert url_of("memory://x") == "memory://x"
    for folder in ("corpus.store", "/data/s3/x", "a:b/c", Path("data/x"), "./s3:x"):
        assert url_of(folder) is None


def test_a_file_url_is_read_too(tmp_path, layout):
    local = building.build(tmp_path / "s", layout=layout)
    remote = Store.open(f"file://{tmp_path / 's'}")
    assert same(remote, local)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StoreMissing):
        Store.open(f"file://{tmp_path / 's'}")
