"""Writing: a shard committed to a store, against `write` and `fsync` of the same bytes to one file, in turns."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from sm_store import Fields, Identity, Record, Store

WIDTH, FRAMES, UTTERANCES = 1024, 300, 437  # 256 MiB, a shard of the default size
ROUNDS = 7


def measure(folder: Path, layout: str) -> dict[str, float]:
    """GB/s, medians of rounds that take turns; what was written is removed after each."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((UTTERANCES, FRAMES, WIDTH), dtype=np.float32).astype(np.float16)
    fields = Fields(text="x", duration=FRAMES / 25)
    records = [Record(f"u{row:06d}", rows, fields) for row, rows in enumerate(features)]
    store = Store.create(folder, Identity(encoder={"id": "random", "width": WIDTH}, layout=layout))
    plain, committed = [], []
    for shard in range(ROUNDS):
        plain.append(features.nbytes / _write(folder.with_suffix(".plain"), features) / 1e9)
        began = time.perf_counter()
        store.commit(shard, records, [])
        committed.append(features.nbytes / (time.perf_counter() - began) / 1e9)
        for path in (folder / "shards").iterdir():
            if path.name != "zarr.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"write + fsync": statistics.median(plain), "store": statistics.median(committed)}


def _write(path: Path, features: np.ndarray) -> float:
    began = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for rows in features:
        os.write(fd, rows.data)
    os.fsync(fd)
    os.close(fd)
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds
