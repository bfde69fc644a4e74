"""Reading: files to zero-padded batch tensors, utterances in random order, one process.

The same utterances in the same batches, from
    preadv        a bare loop over the same bytes into fresh buffers: the ceiling
    store         `Store.read`, by checksum policy, layout and codec
    zarr          zarr-python on the store's own arrays
    webdataset    the same samples in a plain tar of `.npy`, in the order of the tar (it has no random access)
    datasets      a saved Hugging Face dataset of the same arrays
    litdata       an optimised litdata dataset of the same arrays
    streaming     a mosaicml-streaming dataset (MDS) of the same arrays
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import webdataset
import zarr
from torch.nn.utils.rnn import pad_sequence

from sm_store import Fields, Identity, Record, Store

WIDTH, BATCH, SHARD_UTTERANCES = 1024, 32, 256
SHORTEST, LONGEST = 100, 500  # frames: 4 to 20 s
ROUNDS = 7


def lengths(utterances: int) -> np.ndarray:
    """Frames of each utterance."""
    return np.random.default_rng(2).integers(SHORTEST, LONGEST + 1, utterances)


def make_records(utterances: int) -> Iterable[Record]:
    """Random float16 features, the same every time."""
    rng = np.random.default_rng(0)
    for row, frames in enumerate(lengths(utterances).tolist()):
        features = rng.standard_normal((frames, WIDTH), dtype=np.float32).astype(np.float16)
        yield Record(f"u{row:06d}", features, Fields(text="x", duration=frames / 25))


def build(folder: Path, utterances: int, layout: str = "zarr", compression: str | None = None) -> Store:
    """A store of them."""
    identity = Identity(encoder={"id": "random", "width": WIDTH}, layout=layout, compression=compression)
    store = Store.create(folder, identity)
    records = list(make_records(utterances))
    for shard, start in enumerate(range(0, utterances, SHARD_UTTERANCES)):
        store.commit(shard, records[start : start + SHARD_UTTERANCES], [])
    return Store.open(folder)


def read_store(folder: Path, batches: np.ndarray, checksums: str) -> int:
    store = Store.open(folder, checksums=checksums)
    return sum(padded(torch.from_numpy(store.read(batch).features_BTD)) for batch in batches)


def padded(features_BTD: torch.Tensor) -> int:
    """Bytes of a batch that is ready."""
    return features_BTD.numel() * features_BTD.element_size()


def read_preadv(folder: Path, batches: np.ndarray) -> int:
    """The ceiling: every record is a known byte range; the rest of its place in the batch is zeroed."""
    store = Store.open(folder)
    frames, starts = store.frames, store.starts
    offsets = np.asarray(store.columns(["offset"])["offset"])
    handles = [os.open(folder / part.data["features"], os.O_RDONLY) for part in store.parts]
    shards = np.searchsorted(starts, np.arange(len(store)), side="right") - 1
    total = 0
    for batch in batches:
        buffer = np.empty((len(batch), int(frames[batch].max()), WIDTH), np.float16)
        for row, index in enumerate(batch.tolist()):
            own = buffer[row, : int(frames[index])]
            os.preadv(handles[shards[index]], [memoryview(own).cast("B")], int(offsets[index]))
            buffer[row, int(frames[index]) :] = 0
        total += padded(torch.from_numpy(buffer))
    for handle in handles:
        os.close(handle)
    return total


def read_zarr(folder: Path, batches: np.ndarray) -> int:
    shards = [zarr.open(path, mode="r") for path in sorted(folder.glob("shards/*/features"))]
    offsets = [zarr.open(path, mode="r")[:] for path in sorted(folder.glob("shards/*/offsets"))]
    total = 0
    for batch in batches:
        rows = []
        for index in batch.tolist():
            shard, record = divmod(index, SHARD_UTTERANCES)
            rows.append(torch.from_numpy(shards[shard][offsets[shard][record] : offsets[shard][record + 1]]))
        total += padded(pad_sequence(rows, batch_first=True))
    return total


def read_webdataset(folder: Path, batches: np.ndarray) -> int:
    tars = [str(path) for path in sorted(folder.glob("shards/*.tar"))]
    samples = iter(webdataset.WebDataset(tars, shardshuffle=False).decode())
    total = 0
    for batch in batches:
        rows = [torch.from_numpy(next(samples)["features.npy"]) for _ in batch]
        total += padded(pad_sequence(rows, batch_first=True))
    return total


def _rows(utterances: int) -> Iterable[dict[str, np.ndarray]]:
    for record in make_records(utterances):
        yield {"x": record.features}


def build_datasets(folder: Path, utterances: int) -> None:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"x": datasets.Array2D((None, WIDTH), "float16")})
    arguments = {"gen_kwargs": {"utterances": utterances}, "cache_dir": str(folder / "cache")}
    made = datasets.Dataset.from_generator(_rows, features=features, **arguments)
    made.save_to_disk(str(folder / "saved"))


def read_datasets(folder: Path, batches: np.ndarray) -> int:
    import datasets

    saved = datasets.load_from_disk(str(folder / "saved")).with_format("torch")
    total = 0
    for batch in batches:
        rows = saved[batch.tolist()]["x"]
        total += padded(pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True))
    return total


def build_litdata(folder: Path, utterances: int) -> None:
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes="128MB")
    for row, record in enumerate(make_records(utterances)):
        writer[row] = {"x": torch.from_numpy(record.features)}
    writer.done()
    writer.merge()


def read_litdata(folder: Path, batches: np.ndarray) -> int:
    import litdata

    rows = litdata.StreamingDataset(str(folder), shuffle=False)
    return sum(
        padded(pad_sequence([rows[index]["x"] for index in batch.tolist()], batch_first=True)) for batch in batches
    )


def _streaming() -> Any:
    """mosaicml-streaming without its image and text sets, of which the first need another torch than a CPU's."""
    for name in ("vision", "text", "multimodal"):
        sys.modules.setdefault(f"streaming.{name}", ModuleType(name))
    import streaming

    return streaming


def build_streaming(folder: Path, utterances: int) -> None:
    with _streaming().MDSWriter(out=str(folder), columns={"x": "ndarray:float16"}, size_limit="128mb") as out:
        for record in make_records(utterances):
            out.write({"x": record.features})


def read_streaming(folder: Path, batches: np.ndarray) -> int:
    saved = _streaming().LocalDataset(str(folder))
    total = 0
    for batch in batches:
        rows = [torch.from_numpy(saved[index]["x"].copy()) for index in batch.tolist()]  # they are read-only
        total += padded(pad_sequence(rows, batch_first=True))
    return total


def warm(readers: Mapping[str, Callable[[], int]]) -> dict[str, float]:
    """Gigabytes a second: medians of rounds in which all take turns, after one that warms the page cache."""
    for read in readers.values():
        read()
    rounds = [{name: _rate(read) for name, read in readers.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(each[name] for each in rounds) for name in readers}


def cold(read: Callable[[], int], folder: Path) -> float:
    """The same, with none of the files in the page cache."""
    rates = []
    for _ in range(ROUNDS):
        drop_caches(folder)
        rates.append(_rate(read))
    return statistics.median(rates)


def drop_caches(folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_sequentially(folder: Path) -> int:
    """The data files from begin to end."""
    buffer, total = bytearray(8 << 20), 0
    for path in sorted(folder.glob("shards/*/features/c/0/0")):
        fd = os.open(path, os.O_RDONLY)
        while got := os.readv(fd, [buffer]):
            total += got
        os.close(fd)
    return total


def _rate(read: Callable[[], int]) -> float:
    began = time.perf_counter()
    return read() / (time.perf_counter() - began) / 1e9


def measure(scratch: Path, gigabytes: float) -> dict[str, float]:
    """GB/s of padded tensors by reader; what is not installed is left out."""
    frames = (SHORTEST + LONGEST) / 2
    utterances = int(gigabytes * 1e9 / (frames * WIDTH * 2)) // BATCH * BATCH
    batches = np.random.default_rng(1).permutation(utterances).reshape(-1, BATCH)
    arrays, tars, coded, small = (scratch / name for name in ("zarr", "tar", "zstd", "int8"))
    build(arrays, utterances)
    build(tars, utterances, "webdataset")
    build(coded, utterances, compression="zstd:1")
    build(small, utterances, compression="int8")
    readers: dict[str, Callable[[], int]] = {
        "preadv, bare": lambda: read_preadv(arrays, batches),
        "store, checksums never": lambda: read_store(arrays, batches, "never"),
        "store, checksums always": lambda: read_store(arrays, batches, "always"),
        "store in tars, checksums always": lambda: read_store(tars, batches, "always"),
        "store, zstd, checksums always": lambda: read_store(coded, batches, "always"),
        "store, int8, checksums always": lambda: read_store(small, batches, "always"),
        "zarr-python": lambda: read_zarr(arrays, batches),
        "webdataset": lambda: read_webdataset(tars, batches),
    }
    others = {
        "datasets": (build_datasets, read_datasets),
        "litdata": (build_litdata, read_litdata),
        "mosaicml-streaming": (build_streaming, read_streaming),
    }
    for name, (make, read) in others.items():
        folder = scratch / name
        with suppress(ImportError):
            make(folder, utterances)
            readers[name] = partial(read, folder, batches)
    rates = warm(readers)
    rates["cold: files read sequentially"] = cold(lambda: read_sequentially(arrays), arrays)
    rates["cold: store, checksums always"] = cold(lambda: read_store(arrays, batches, "always"), arrays)
    return rates
