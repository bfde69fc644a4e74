"""Opening: a store of millions of utterances (synthetic catalog, sparse files), its splits, and an epoch's plan."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from sm_store import Identity, Store, catalog, paths
from sm_store.catalog import PartInfo
from sm_store.durable import Written, checksum

WIDTH, SHARD_UTTERANCES = 1024, 512


def build(folder: Path, utterances: int) -> None:
    """The catalog of a store, and files of the right sizes without contents."""
    shards = -(-utterances // SHARD_UTTERANCES)
    identity = Identity(encoder={"id": "synthetic", "width": WIDTH}, plan={"shards": shards})
    Store.create(folder, identity)
    rng, made_by = np.random.default_rng(0), identity.sha256()
    for shard in range(shards):
        count = min(SHARD_UTTERANCES, utterances - shard * SHARD_UTTERANCES)
        frames = rng.integers(25, 850, count)
        size = int(frames.sum()) * WIDTH * 2
        file = folder / f"{paths.shard_folder(shard)}/features/c/0/0"
        file.parent.mkdir(parents=True)
        with file.open("wb") as out:
            out.truncate(size)
        info = PartInfo(
            shard,
            made_by,
            {"features": str(file.relative_to(folder))},
            {str(file.relative_to(folder)): Written(size, 1)},
        )
        data = catalog.encode(catalog.SCHEMA, _columns(shard, frames, rng), info)
        (folder / paths.part(shard)).write_bytes(data)
        (folder / paths.part_seal(shard)).write_bytes(catalog.seal(len(data), checksum(data)))
    Store.open(folder).compact()


def _columns(shard: int, frames: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    count = len(frames)
    empty = {name: [None] * count for name in ("question", "answer", "translation")}
    return {
        "id": [f"utterance-{shard}-{row}" for row in range(count)],
        "shard": np.full(count, shard),
        "row": np.arange(count),
        "frames": frames,
        "offset": (np.cumsum(frames) - frames) * WIDTH * 2,
        "stored": np.zeros(count, np.int64),
        "crc32c": rng.integers(0, 2**32, count, dtype=np.uint32),
        "text": ["he hoped there would be stew for dinner"] * count,
        "duration": frames / 25,
        "lang": ["en"] * count,
        "speaker": [f"speaker-{shard % 5000}"] * count,
        "split": ["train" if shard % 50 else "dev"] * count,
        "corpus": ["synthetic"] * count,
        **empty,
    }


def look(folder: Path, results: multiprocessing.Queue) -> None:
    """In a process of its own, so that its memory is that of the store."""
    began = time.perf_counter()
    store = Store.open(folder)
    opened, memory = time.perf_counter() - began, _peak()
    began = time.perf_counter()
    train = store.select(split="train")
    selected = time.perf_counter() - began
    from speechmapper.loader.epoch import Budget, Order

    began = time.perf_counter()
    shards = np.repeat(np.arange(len(store.parts)), np.diff(store.starts))[train]
    Order(train, store.frames[train], shards, Budget(8192), 0).locate(0)
    results.put((opened, memory, selected, time.perf_counter() - began))


def _peak() -> float:
    """Gigabytes of this process's largest resident set, by /proc: `getrusage` counts the parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9


def measure(folder: Path, utterances: int) -> Table:
    """Seconds and gigabytes."""
    build(folder, utterances)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=look, args=(folder, results))
    process.start()
    opened, memory, selected, planned = results.get()
    process.join()
    table = Table(title=f"A store of {utterances:,} utterances")
    table.add_column("")
    table.add_column("", justify="right")
    for label, value in (
        ("open", f"{opened:.1f} s"),
        ("memory then, peak", f"{memory:.2f} GB"),
        ("select a split", f"{selected:.1f} s"),
        ("plan an epoch", f"{planned:.1f} s"),
    ):
        table.add_row(label, value)
    return table
