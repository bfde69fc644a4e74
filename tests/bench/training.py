"""Stage 1 training: what a step costs, what waiting for data adds, and what one would write instead.

    in memory     the same steps on batches that are on the device already: the ceiling
    this project  the trainer on a store: reading, copying, step
    webdataset    a plain torch loop: tars of .npy, batches of a fixed count in shuffled order, padded to the longest
    sweep         three alphas from one read, against three runs, where reading bounds them: behind a slow link, which
                  is modelled by waiting

    python tests/bench/training.py [--device cuda] [--size paper] [--frames 4096]

All train the same projector in the same precision with the same optimizer, in turns; medians of three rounds. FLOP
are counted by torch over one forward and backward; utilisation is against --peak TFLOP/s, or against a large matrix
product on the same device.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode

from sm_store import Fields, Geometry, Identity, Record, Store, TargetSpec
from sm_store.targets import table_scale, table_sha256, tokenizer_sha256
from speechmapper.config import Stage1Config
from speechmapper.config_file import load_config, to_plain
from speechmapper.loader.data import DataRequest, open_data
from speechmapper.loader.prefetch import StepBatches, StepReader
from speechmapper.objectives import Answers
from speechmapper.objectives.distance import WeightedDistance
from speechmapper.projector import Projector
from speechmapper.train.log import read_metrics
from speechmapper.train.run_folder import open_accelerator
from speechmapper.train.stage1 import Stage1Request, build_run, geometry_of, projector_config, train_stage1
from speechmapper.train.sweep import SweepRequest, sweep_stage1
from speechmapper.train.vary import parse_axes, stage1_variants

WIDTH, VOCABULARY, SHARD = 1024, 2000, 256
RATE = 25  # stored frames a second
SIZES: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": {"block_sizes": [256, 256], "block_outputs": [256, 256], "num_layers": [2, 2], "ffn_size": 512},
    "tiny": {"block_sizes": [16, 16], "block_outputs": [16, 16], "num_layers": [0, 0], "ffn_size": 16, "num_heads": 1},
}
WARM_UP, STEPS, ROUNDS = 3, 20, 3


def seconds_of_speech(utterances: int) -> np.ndarray:
    """LibriSpeech-like lengths: most 12 to 16 s, some short."""
    rng = np.random.default_rng(2)
    long = rng.random(utterances) < 0.7
    return np.where(long, rng.normal(14.5, 1.2, utterances), rng.uniform(2, 14, utterances)).clip(1.5, 17)


def build(folder: Path, utterances: int, width: int, layout: str = "zarr") -> Store:
    """A store of random features with a target set of random rows, `width` wide, stored dense."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((VOCABULARY, width), dtype=np.float32)
    identity = Identity(encoder={"id": "random", "width": WIDTH}, layout=layout)
    store = Store.create(folder, identity)
    spec = TargetSpec(
        "llm", "random", None, tokenizer_sha256({}), table_sha256(table), table_scale(table),
        "<pad>", 0, width, VOCABULARY,
    )  # fmt: skip
    store.add_target_set(spec, table, {})
    frames = (seconds_of_speech(utterances) * RATE).astype(int)
    for shard, start in enumerate(range(0, utterances, SHARD)):
        records, ids = [], []
        for row in range(start, min(start + SHARD, utterances)):
            features = rng.standard_normal((frames[row], WIDTH), dtype=np.float32).astype(np.float16)
            records.append(Record(f"u{row:06d}", features, Fields(text="x", duration=frames[row] / RATE)))
            ids.append(rng.integers(1, VOCABULARY, max(1, int(frames[row] / RATE * 3.2))).astype(np.int32))
        store.commit(shard, records, [], {"llm": ids})
    return Store.open(folder)


def settings(size: str, frames: int, device: str, steps: int) -> Stage1Config:
    precision = "bf16" if device == "cuda" else "fp32"
    layer = {
        "model": SIZES[size],
        "data": {"frames": frames, "max_frames": max(frames, 17 * RATE)},
        "schedule": {"steps": steps, "warmup": 0},
        "run": {
            "device": "cpu" if device == "cpu" else "auto",
            "precision": precision,
            "trackers": [],
            "log_every": max(1, steps),
            "eval_utterances": 0,
            "save_every": 0,
        },
    }
    return load_config("stage1", Stage1Config, [("bench", layer)])


@dataclasses.dataclass(frozen=True, order=True)
class Speed:
    """Of some steps: seconds of audio and tokens a second, seconds a step, share of time spent waiting for data."""

    audio: float
    tokens: float
    step: float
    wait: float


def timed(steps: Iterator[StepBatches], train: Callable[[StepBatches], object], count: int) -> Speed:
    for ready in itertools.islice(steps, WARM_UP):
        train(ready)
    synchronize()
    began, frames, tokens, wait = time.perf_counter(), 0, 0, 0.0
    for ready in itertools.islice(steps, count):
        train(ready)
        frames, tokens, wait = frames + ready.frames, tokens + ready.tokens, wait + ready.wait
    synchronize()
    took = time.perf_counter() - began
    return Speed(frames / RATE / took, tokens / took, took / count, wait / took)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Ours:
    """The project's trainer on the same steps, from the store or from memory."""

    def __init__(self, folder: Path, out: Path, config: Stage1Config, count: int) -> None:
        self._data = open_data(DataRequest(folder), geometry_of(config), config.data, config.seed)
        self._prefetch, self._count = config.data.prefetch, count
        accelerator = open_accelerator(config.run, out)
        self._device = accelerator.device
        self.run = build_run(out, config, self._data, accelerator)
        with self._reader() as reader:
            self._held = [dataclasses.replace(ready, wait=0.0) for ready in reader.steps(0, WARM_UP + count)]

    def _reader(self) -> StepReader:
        return StepReader(self._data.source, self._data.order, self._device, (0, 1), self._prefetch)

    def _step(self, ready: StepBatches) -> object:
        return self.run.train_step(ready, stop_requested=False)

    def from_store(self) -> Speed:
        with self._reader() as reader:
            return timed(reader.steps(0, WARM_UP + self._count), self._step, self._count)

    def in_memory(self) -> Speed:
        return timed(iter(self._held), self._step, self._count)

    def flop(self) -> float:
        """FLOP of a second of audio."""
        with FlopCounterMode(display=False) as counter:
            self._step(self._held[0])
        return counter.get_total_flops() / (self._held[0].frames / RATE)


def plain(folder: Path, config: Stage1Config, device: torch.device, count: int) -> Callable[[], Speed]:
    """The loop one would write over the tars with stock tools; each call goes on with it."""
    data = open_data(DataRequest(folder), geometry_of(config), config.data, config.seed)
    projector = Projector(projector_config(config, data)).to(device).train()
    loss_of = WeightedDistance(table_scale=data.spec.table_scale)
    optimizer = torch.optim.AdamW(projector.parameters(), 1e-4, fused=True)
    tars = [str(path) for path in sorted(folder.glob("shards/*.tar"))]
    samples = webdataset.WebDataset(tars, shardshuffle=False).shuffle(500, rng=None).decode().repeat()
    size = max(1, int(config.data.frames / (seconds_of_speech(1000).mean() * RATE)))
    geometry, stream = Geometry(), iter(samples)

    def steps() -> Iterator[StepBatches]:
        for number in itertools.count():
            began = time.perf_counter()
            rows = [next(stream) for _ in range(size)]
            features = pad_sequence([torch.from_numpy(row["features.npy"]) for row in rows], batch_first=True)
            targets = pad_sequence([torch.from_numpy(row["llm.npy"]) for row in rows], batch_first=True)
            frames = torch.tensor([len(row["features.npy"]) for row in rows])
            tokens = torch.tensor([max(1, int(count / RATE * 3.2)) for count in frames.tolist()])
            batch = [tensor.to(device) for tensor in (features, frames, targets, tokens)]
            yield StepBatches(number, batch, int(frames.sum()), int(tokens.sum()), time.perf_counter() - began)

    def train(ready: StepBatches) -> None:
        features, frames, targets, tokens = ready.batches
        vectors_B = torch.tensor([geometry.num_vectors(int(count)) for count in frames], device=device)
        answers = Answers(targets, vectors_B, tokens, tokens[:, None], frames)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.run.precision == "bf16"):
            found = projector.project(features, frames)
        loss_of.combine(loss_of(found, answers), loss_of.counts(answers)).backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return lambda: timed(steps(), train, count)


@contextmanager
def link(rate: float) -> Iterator[None]:
    """Reading takes at least as long as the bytes take over a link of so many bytes a second."""
    read = Store.read

    def slowly(self: Store, *arguments: Any, **more: Any) -> Any:
        began = time.perf_counter()
        batch = read(self, *arguments, **more)
        size = batch.features_BTD.nbytes + batch.targets_BUE.nbytes
        time.sleep(max(0.0, size / rate - (time.perf_counter() - began)))
        return batch

    Store.read = slowly
    yield
    Store.read = read


def sweep(folder: Path, out: Path, config: Stage1Config) -> tuple[float, float, float]:
    """Seconds of three runs one by one, of a sweep of the three, and the share of a run spent waiting for data."""
    variants = stage1_variants([("bench", to_plain(config))], parse_axes(["objective.alpha=5,7,9"]))
    began = time.perf_counter()
    for variant in variants:
        train_stage1(Stage1Request(folder, out / "single" / variant.name, variant.config))
    single = time.perf_counter() - began
    began = time.perf_counter()
    sweep_stage1(SweepRequest(folder, out / "sweep", variants))
    return single, time.perf_counter() - began, read_metrics(out / "single" / "alpha-5")[-1]["data_wait"]


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of a large matrix product: what the device really gives."""
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(one, other)
    synchronize()
    began = time.perf_counter()
    for _ in range(5):
        torch.mm(one, other)
    synchronize()
    return 5 * 2 * size**3 / (time.perf_counter() - began)


@dataclasses.dataclass(frozen=True)
class Options:
    device: str = "cpu"
    size: str = "small"
    frames: int = 4096
    steps: int = STEPS
    utterances: int = 768
    peak: float | None = None
    link: float = 0.05  # GB/s


def measure(folder: Path, options: Options) -> list[Table]:
    """The comparisons as tables."""
    logging.disable(logging.WARNING)
    device = torch.device(options.device)
    width = 4096 if options.size == "paper" else 576
    build(folder / "store", options.utterances, width)
    build(folder / "tars", options.utterances, width, layout="webdataset")
    config = settings(options.size, options.frames, options.device, 1000)
    ours = Ours(folder / "store", folder / "run", config, options.steps)
    by_hand = plain(folder / "tars", config, device, options.steps)
    readers = {"in memory": ours.in_memory, "this project, store": ours.from_store, "torch + webdataset": by_hand}
    rounds = [{name: reader() for name, reader in readers.items()} for _ in range(ROUNDS)]
    flop = ours.flop()
    ours.run.close()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    peak = options.peak * 1e12 if options.peak else matmul_rate(device, dtype)
    title = f"Stage 1, {options.device}, {options.size} projector, {options.frames} frames a batch"
    table = Table(title=f"{title}, utilisation of {peak / 1e12:.2f} TFLOP/s")
    for name in ("", "audio s/s", "tokens/s", "s/step", "wait", "FLOP used", "of in memory"):
        table.add_column(name, justify="right" if name else "left")
    for name in readers:
        speed = statistics.median_low([turn[name] for turn in rounds])
        of_memory = statistics.median([turn[name].audio / turn["in memory"].audio for turn in rounds])
        shares = (f"{speed.wait:.1%}", f"{speed.audio * flop / peak:.1%}", f"{of_memory:.3f}")
        table.add_row(name, f"{speed.audio:.0f}", f"{speed.tokens:.0f}", f"{speed.step:.4f}", *shares)
    return [table, measure_sweep(folder, options)]


def measure_sweep(folder: Path, options: Options) -> Table:
    """Three alphas where reading bounds: a projector that costs little, a store behind a slow link."""
    config = settings("tiny", options.frames, options.device, max(8, 2 * options.steps))
    with link(options.link * 1e9):
        single, together, wait = sweep(folder / "store", folder / "sweeps", config)
    title = f"Three alphas, {options.device}, behind a link of {options.link} GB/s"
    table = Table(title=f"{title}: {wait:.0%} of a run is waiting")
    for name in ("", "seconds", "of three runs"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("three runs", f"{single:.2f}", "1.00")
    table.add_row("one sweep", f"{together:.2f}", f"{together / single:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for each in dataclasses.fields(Options):
        kind = type(each.default) if each.default is not None else float
        parser.add_argument(f"--{each.name}", type=kind, default=each.default)
    with tempfile.TemporaryDirectory() as scratch:
        for table in measure(Path(scratch), Options(**vars(parser.parse_args()))):
            Console(file=sys.stdout).print(table)


if __name__ == "__main__":
    main()
