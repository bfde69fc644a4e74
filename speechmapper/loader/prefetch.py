"""Reads what each step needs: a thread reads the next steps while the model works on this one.

    Order.step(7) -> [[12, 80, 3], [44, 9]]      store indices of the step's micro-batches
    this process takes its share                 micro-batches rank, rank + world, ...
    thread: store.read(indices, targets)         padded arrays, pinned where they go to a GPU
    main:   tensors on the device                non-blocking; the time spent waiting is measured

The state is one integer, the step to start from: there is nothing else to save. The thread ends with the
`with` block; an exception in it is raised in the main thread.

Shapes: B batch, T encoder frames, U projector vectors, D encoder width, E LLM width.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch

from sm_store import Batch, Geometry
from speechmapper.loader.epoch import Order
from speechmapper.loader.stores import OpenStore
from speechmapper.objectives.base import Answers

POLL_SECONDS = 0.1  # how often a blocked reading thread checks whether to end


@dataclass(frozen=True, slots=True)
class DeviceBatch(Answers):
    """One micro-batch on the device; targets in the stored dtype.

    Attributes:
        features_BTD: stored dtype, zero beyond `frames_B`.
        indices: store indices (B,), on the host.
        micro: number of this micro-batch in the run: the seed of everything drawn for it.
    """

    features_BTD: torch.Tensor
    indices: np.ndarray
    micro: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where batches come from: a store or several as one, the name of the target set, the geometry of the projector."""

    store: OpenStore
    target: str
    geometry: Geometry

    def read(self, indices: np.ndarray, pin: bool = False) -> Batch:
        """These utterances with their targets, on the host."""
        return self.store.read(indices, targets=self.target, pin=pin, geometry=self.geometry)


@dataclass(frozen=True, slots=True)
class StepBatches:
    """One process's micro-batches of one step.

    Attributes:
        step: from 0.
        frames, tokens: valid feature frames and text tokens in `batches`.
        wait: seconds this process waited for them.
    """

    step: int
    batches: list[DeviceBatch]
    frames: int
    tokens: int
    wait: float


class StepReader:
    """Iterates over the steps of a run; a context manager that owns the reading thread.

    Args:
        source: what to read from.
        order: what each step reads.
        device: where the batches go.
        share: (rank, world): this process's share of every step; world divides the micro-batches of a step.
        prefetch: steps read ahead.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        device: torch.device,
        share: tuple[int, int],
        prefetch: int,
    ) -> None:
        self._source = source
        self._order = order
        self._device = device
        self._rank, self._world = share
        self._prefetch = prefetch
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._uncopied: tuple[list[Any], Any] | None = None

    def __enter__(self) -> StepReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def steps(self, start: int, stop: int) -> Iterator[StepBatches]:
        """The steps from `start` up to, not including, `stop`, in order."""
        ahead: queue.Queue[list[Any] | BaseException] = queue.Queue(maxsize=self._prefetch)
        self._thread = threading.Thread(target=self._read, args=(start, stop, ahead), name="step-reader", daemon=True)
        self._thread.start()
        for step in range(start, stop):
            started = time.perf_counter()
            read = ahead.get()
            wait = time.perf_counter() - started
            if isinstance(read, BaseException):
                raise read
            first = step * self._order.budget.micro_batches
            numbers = range(first + self._rank, first + self._order.budget.micro_batches, self._world)
            self._release()
            batches = [to_device(data, self._device, micro) for data, micro in zip(read, numbers, strict=True)]
            self._keep(read)
            frames, tokens = (sum(int(getattr(data, name).sum()) for data in read) for name in ("frames_B", "tokens_B"))
            yield StepBatches(step, batches, frames, tokens, wait)

    def _keep(self, read: list[Any]) -> None:
        """Keep host buffers until they are copied to the GPU: the store reuses those that are free."""
        if self._device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
            self._uncopied = (read, copied)

    def _release(self) -> None:
        if self._uncopied is not None:
            self._uncopied[1].synchronize()
            self._uncopied = None

    def _read(self, start: int, stop: int, ahead: queue.Queue[list[Any] | BaseException]) -> None:
        pin = self._device.type == "cuda"
        try:
            for step in range(start, stop):
                mine = self._order.step(step)[self._rank :: self._world]
                self._put(ahead, [self._source.read(batch, pin) for batch in mine])
                if self._ended.is_set():
                    return
        except BaseException as error:
            # Raised in the main thread, so that it ends the run and its traceback is shown.
            self._put(ahead, error)

    def _put(self, ahead: queue.Queue[list[Any] | BaseException], item: list[Any] | BaseException) -> None:
        while not self._ended.is_set():
            try:
                ahead.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue


def read_batch(source: Source, indices: np.ndarray, device: torch.device, micro: int = 0) -> DeviceBatch:
    """Read these utterances in the calling thread (evaluation)."""
    return to_device(source.read(indices), device, micro)


def to_device(data: Any, device: torch.device, micro: int) -> DeviceBatch:
    """A store batch with targets, as tensors on `device`."""

    def move(array: np.ndarray) -> torch.Tensor:
        return as_tensor(array).to(device, non_blocking=True)

    return DeviceBatch(
        targets_BUE=move(data.targets_BUE),
        vectors_B=move(data.vectors_B),
        tokens_B=move(data.tokens_B),
        token_ids_BN=move(padded_ids(data.token_ids)),
        features_BTD=move(data.features_BTD),
        frames_B=move(data.frames_B),
        indices=data.indices_B,
        micro=micro,
    )


def padded_ids(token_ids: Sequence[np.ndarray]) -> np.ndarray:
    """Token ids (B, N), int64, 0 beyond each utterance's own."""
    padded = np.zeros((len(token_ids), max((len(ids) for ids in token_ids), default=0)), np.int64)
    for row, ids in zip(padded, token_ids, strict=True):
        row[: len(ids)] = ids
    return padded


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the array's memory; the store holds bfloat16 as its uint16 bits."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
