"""Memory for batches, reused as soon as nothing refers to it: fresh pages cost more than the reading itself.

    pool = BufferPool()
    block = pool.take(10_000_000)      uint8 (10_000_000,), contents undefined
    view = block[:4].view(np.float32)  any number of views, tensors made from them, ...
    del block, view                    the memory goes back to the pool by itself

The block's array is a view of memory that it does not own, and numpy ties every view of it to the block, so
the block is collected exactly when the last user is gone; that is when the memory returns. The pool keeps at
most `keep` idle pieces, so that a reader holds little more than the batches in flight.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from typing import Any

import numpy as np

from sm_store.errors import StoreError

_HUGE = 2 * 1024 * 1024


class BufferPool:
    """Reusable memory, plain or pinned for fast copies to a GPU."""

    def __init__(self, pinned: bool = False, keep: int = 3) -> None:
        self._pinned = pinned
        self._keep = keep
        self._idle: list[tuple[int, Any]] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> np.ndarray:
        """A uint8 array of (size,) bytes, aligned to pages, contents undefined."""
        capacity, memory = self._find(size)
        block = _as_array(memory, capacity)
        weakref.finalize(block, self._give_back, capacity, memory).atexit = False
        return block[:size]

    def idle_bytes(self) -> int:
        """Memory that waits to be used again."""
        return sum(capacity for capacity, _ in self._idle)

    def _find(self, size: int) -> tuple[int, Any]:
        with self._lock:
            fitting = [entry for entry in self._idle if size <= entry[0] <= max(4 * size, _HUGE)]
            if fitting:
                best = min(fitting, key=lambda entry: entry[0])
                self._idle = [entry for entry in self._idle if entry is not best]
                return best
        capacity = max(-(-size * 9 // 8 // _HUGE), 1) * _HUGE
        return capacity, _pinned(capacity) if self._pinned else _pages(capacity)

    def _give_back(self, capacity: int, memory: Any) -> None:
        with self._lock:
            self._idle = [(capacity, memory), *self._idle][: self._keep]


def _pages(capacity: int) -> mmap.mmap:
    memory = mmap.mmap(-1, capacity)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _pinned(capacity: int) -> Any:
    torch = sys.modules.get("torch")  # never imported here: only a caller who works with torch can want this
    if torch is None:
        raise StoreError("pin=True needs torch: import it before reading")
    return torch.empty(capacity, dtype=torch.uint8, pin_memory=torch.cuda.is_available())


def _as_array(memory: Any, capacity: int) -> np.ndarray:
    if isinstance(memory, mmap.mmap):
        return np.frombuffer(memory, np.uint8, capacity)
    array: np.ndarray = memory.numpy()
    return array  # this very array: views of a view of it would tie themselves to it, not to the view
