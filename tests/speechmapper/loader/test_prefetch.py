"""Batches: what the store holds, in the order planned, shared among processes, without leftovers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from sm_store import Geometry
from sm_store.errors import StoreMissing
from speechmapper.config import DataConfig
from speechmapper.loader.prefetch import Source, StepReader, as_tensor, read_batch
from tests.speechmapper.tiny import data_of, source_of

CPU = torch.device("cpu")


@pytest.fixture
def data(world):
    return data_of(world, DataConfig(frames=200, max_utterances=4, micro_batches=2))


def reader(data, share=(0, 1), prefetch=2) -> StepReader:
    return StepReader(data.source, data.order, CPU, share, prefetch)


def test_batches_are_the_planned_ones_with_the_stores_bytes(data):
    with reader(data) as batches:
        for ready in batches.steps(0, 3):
            planned = data.order.step(ready.step)
            assert [batch.indices.tolist() for batch in ready.batches] == [batch.tolist() for batch in planned]
            assert ready.frames == sum(int(data.store.frames[batch].sum()) for batch in planned)
            assert ready.wait >= 0
            for batch in ready.batches:
                for row, index in enumerate(batch.indices.tolist()):
                    count = int(batch.frames_B[row])
                    assert np.array_equal(batch.features_BTD[row, :count].numpy(), data.store[index].features)
                    assert not batch.features_BTD[row, count:].any()


def test_micro_batches_are_numbered_over_the_run(data):
    with reader(data) as batches:
        numbers = [batch.micro for ready in batches.steps(3, 5) for batch in ready.batches]
    assert numbers == [6, 7, 8, 9]


def test_processes_share_a_step_and_together_have_all_of_it(data):
    def seen(share):
        with reader(data, share) as batches:
            return {(batch.micro, tuple(batch.indices)) for ready in batches.steps(0, 4) for batch in ready.batches}

    first, second = seen((0, 2)), seen((1, 2))
    assert not first & second
    assert first | second == seen((0, 1))


def test_starting_later_is_the_same_as_having_run(data):
    def ids(start, stop):
        with reader(data) as batches:
            return [tuple(batch.indices) for ready in batches.steps(start, stop) for batch in ready.batches]

    whole = ids(0, 12)  # over an epoch's end: an epoch has about 4 steps
    assert data.order.locate(11)[0] >= 1
    for start in (1, 5, 11):
        assert ids(start, 12) == whole[2 * start :]


def test_leaving_early_ends_the_thread(data):
    before = threading.active_count()
    with reader(data, prefetch=1) as batches:
        next(iter(batches.steps(0, 10_000)))
    assert threading.active_count() == before


def test_what_goes_wrong_in_the_thread_is_raised_here(data):
    broken = StepReader(Source(data.store, "no-such-set", data.source.geometry), data.order, CPU, (0, 1), 2)
    with broken as batches, pytest.raises(StoreMissing, match="no-such-set"):
        next(iter(batches.steps(0, 5)))


def test_targets_are_the_padded_embeddings(world, data):
    batch = read_batch(source_of(world), np.array([0, 7, 3]), CPU)
    table = data.store.targets("tiny").table
    for row, index in enumerate((0, 7, 3)):
        ids = list(data.store.read([index], targets="tiny").token_ids[0])
        expected = table[[*ids, *[0] * (int(batch.vectors_B[row]) - len(ids))]]
        assert np.allclose(batch.targets_BUE[row, : len(expected)].float().numpy(), expected, atol=1e-3)
        assert int(batch.tokens_B[row]) == len(world.texts[index].split())
        assert batch.token_ids_BN[row].tolist() == ids + [0] * (batch.token_ids_BN.shape[1] - len(ids))


@pytest.mark.parametrize("geometry", [Geometry((6,), (2,), (2,)), Geometry((6, 6), (2, 4), (2, 2))], ids=str)
def test_targets_for_another_geometry(data, geometry):
    """Padded to more or fewer vectors than they are stored with; equal to the embeddings up to the last token."""
    source = Source(data.store, "tiny", geometry)
    batch = source.read(np.array([0, 7, 3]))
    own = data.source.read(np.array([0, 7, 3]))
    pad = data.store.targets("tiny").pad_row
    assert batch.vectors_B.tolist() == [geometry.num_vectors(int(count)) for count in batch.frames_B]
    for row, (count, tokens) in enumerate(zip(batch.vectors_B, batch.tokens_B, strict=True)):
        kept = min(int(tokens), int(count))
        assert np.array_equal(batch.targets_BUE[row, :kept], own.targets_BUE[row, :kept])
        assert (batch.targets_BUE[row, kept:count] == pad).all()
        assert not batch.targets_BUE[row, count:].any()


def test_bfloat16_bits_become_numbers():
    tensor = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    assert torch.equal(as_tensor(tensor.view(torch.uint16).numpy()), tensor)
    assert as_tensor(np.ones(2, np.float16)).dtype == torch.float16


def test_no_copy_between_store_and_tensor():
    array = np.ones((2, 3), np.float16)
    as_tensor(array)[0, 0] = 7
    assert array[0, 0] == 7
