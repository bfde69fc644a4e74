"""Memory for batches: used again once it is free, and never before."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sm_store import Store, StoreError
from sm_store.reading.buffers import BufferPool
from tests.store import building


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
