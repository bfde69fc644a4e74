"""`make bench`: what one would use instead, side by side, as ratios within one run.

Reading: files to padded batch tensors, utterances in random order, files in the page cache, one process. The same
utterances in the same batches, from
    preadv        a bare loop over the same bytes into the same buffers: the ceiling
    store         `Store.read`, with and without checksums
    zarr          zarr-python on the store's own arrays
    webdataset    the same samples in a plain tar of `.npy`, in the order of the tar (it has no random access)

    python tests/bench/run.py [--gigabytes 0.3]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
import zarr
from rich.console import Console
from rich.table import Table

from sm_store import Fields, Identity, Record, Store

WIDTH, FRAMES = 1024, 300  # 12 s of audio
BATCH = 32
ROUNDS = 5
SHARD_UTTERANCES = 256


def build(folder: Path, layout: str, utterances: int) -> Store:
    """A store of random float16 features."""
    identity = Identity(encoder={"id": "random", "width": WIDTH}, layout=layout, normalizer="mms-1")
    store = Store.create(folder, identity)
    rng = np.random.default_rng(0)
    for shard, start in enumerate(range(0, utterances, SHARD_UTTERANCES)):
        rows = range(start, min(start + SHARD_UTTERANCES, utterances))
        features = [rng.standard_normal((FRAMES, WIDTH), dtype=np.float32).astype(np.float16) for _ in rows]
        fields = Fields(text="x", duration=FRAMES / 25)
        records = [Record(f"u{row:06d}", each, fields) for row, each in zip(rows, features, strict=True)]
        store.commit(shard, records, [])
    return Store.open(folder)


def read_store(folder: Path, batches: np.ndarray, checksums: str) -> int:
    store = Store.open(folder, checksums=checksums)
    return sum(store.read(batch).features_BTD.nbytes for batch in batches)


def read_preadv(folder: Path, batches: np.ndarray) -> int:
    """The ceiling: record i of shard s is a known byte range."""
    paths = sorted(folder.glob("shards/*/features/c/0/0"))
    handles = [os.open(path, os.O_RDONLY) for path in paths]
    size, total = FRAMES * WIDTH * 2, 0
    for batch in batches:
        buffer = np.empty((len(batch), FRAMES, WIDTH), np.float16)
        for row, index in enumerate(batch):
            shard, record = divmod(int(index), SHARD_UTTERANCES)
            os.preadv(handles[shard], [memoryview(buffer[row]).cast("B")], record * size)
        total += buffer.nbytes
    for handle in handles:
        os.close(handle)
    return total


def read_zarr(folder: Path, batches: np.ndarray) -> int:
    shards = [zarr.open(path, mode="r") for path in sorted(folder.glob("shards/*/features"))]
    total = 0
    for batch in batches:
        buffer = np.empty((len(batch), FRAMES, WIDTH), np.float16)
        for row, index in enumerate(batch):
            shard, record = divmod(int(index), SHARD_UTTERANCES)
            buffer[row] = shards[shard][record * FRAMES : (record + 1) * FRAMES]
        total += buffer.nbytes
    return total


def read_webdataset(folder: Path, batches: np.ndarray) -> int:
    tars = [str(path) for path in sorted(folder.glob("shards/*.tar"))]
    samples = iter(webdataset.WebDataset(tars, shardshuffle=False).decode())
    total = 0
    for batch in batches:
        arrays = [next(samples)["features.npy"] for _ in batch]
        total += np.stack(arrays).nbytes
    return total


def fastest(read: Callable[[], int]) -> float:
    """Gigabytes a second of the best of several rounds, after one that warms the page cache."""
    read()
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        size = read()
        rates.append(size / (time.perf_counter() - began) / 1e9)
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.3)
    utterances = int(parser.parse_args().gigabytes * 1e9 / (FRAMES * WIDTH * 2)) // BATCH * BATCH
    batches = np.random.default_rng(1).permutation(utterances).reshape(-1, BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        arrays, tars = Path(scratch) / "zarr", Path(scratch) / "tar"
        build(arrays, "zarr", utterances)
        build(tars, "webdataset", utterances)
        readers: dict[str, Callable[[], int]] = {
            "preadv, bare": lambda: read_preadv(arrays, batches),
            "store, checksums never": lambda: read_store(arrays, batches, "never"),
            "store, checksums always": lambda: read_store(arrays, batches, "always"),
            "store in tars, checksums always": lambda: read_store(tars, batches, "always"),
            "zarr-python": lambda: read_zarr(arrays, batches),
            "webdataset": lambda: read_webdataset(tars, batches),
        }
        rates = {name: fastest(read) for name, read in readers.items()}
    table = Table(title=f"{utterances} records of ({FRAMES}, {WIDTH}) float16 to padded batches of {BATCH}, warm")
    for column in ("reader", "GB/s", "of bare preadv"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.2f}", f"{rate / rates['preadv, bare']:.2f}")
    Console(file=sys.stdout).print(table)


if __name__ == "__main__":
    main()
