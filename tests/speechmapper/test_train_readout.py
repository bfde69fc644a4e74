"""Nearest tokens and distances, against the obvious computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechmapper.loader.batches import DeviceBatch
from speechmapper.train import readout
from speechmapper.train.readout import Closeness, NearestToken
from tests.speechmapper.tiny import llama, tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def table() -> torch.Tensor:
    return llama().get_input_embeddings().weight.detach()


@pytest.fixture
def nearest(table) -> NearestToken:
    return NearestToken(table.numpy(), tokenizer(), pad_id=0, device=CPU)


def test_equals_the_full_distance_matrix(table, nearest, monkeypatch):
    torch.manual_seed(1)
    vectors = table[torch.randint(0, len(table), (3, 7))] + 0.4 * torch.randn(3, 7, table.shape[1])
    lengths = torch.tensor([7, 2, 5])
    expected = [torch.cdist(vectors[row, :count], table).argmin(dim=1).tolist() for row, count in enumerate(lengths)]
    assert nearest.token_ids(vectors, lengths) == expected
    monkeypatch.setattr(readout, "CHUNK_SCORES", 2 * len(table))  # two positions at a time
    assert nearest.token_ids(vectors, lengths) == expected


def test_long_rows_do_not_win_by_their_length():
    """The dot product alone would choose the longer row."""
    table = torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    found = NearestToken(table, tokenizer(), 0, CPU).token_ids(torch.tensor([[[1.2, 0.0]]]), torch.tensor([1]))
    assert found == [[0]]


def test_autocast_does_not_round_the_scores(table, nearest):
    vectors = (table[None, :40] + 1e-3).clone()
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest.token_ids(vectors, torch.tensor([40]))
    assert found == [list(range(40))]


def test_pads_are_dropped_and_nothing_is_collapsed(nearest):
    ids = tokenizer()("the the dog")["input_ids"]
    assert nearest.texts([[0, *ids, 0, 0], [0, 0], [], [ids[0], 0, ids[2]]]) == ["the the dog", "", "", "the dog"]


def test_special_tokens_are_not_written(nearest):
    dog = tokenizer()("dog")["input_ids"]
    assert nearest.texts([[1, *dog, 2, 5]]) == ["dog"]


def device_batch(targets: torch.Tensor, vectors_B: list[int], tokens_B: list[int]) -> DeviceBatch:
    zeros = torch.zeros(len(vectors_B), dtype=torch.long)
    return DeviceBatch(targets, zeros, targets, torch.tensor(vectors_B), torch.tensor(tokens_B), np.zeros(2), 0)


def test_closeness_by_hand():
    targets = torch.zeros(2, 3, 2)
    targets[:, :, 0] = 1.0
    vectors = targets.clone()
    vectors[0, 0] = torch.tensor([0.0, 1.0])  # a word, at right angles: squared error 1 + 1, cosine 0
    vectors[0, 2] = torch.tensor([3.0, 0.0])  # a pad after the first: squared error 4
    vectors[1, 2] = 1e6  # beyond this row's length
    closeness = Closeness(table_scale=0.5)
    closeness.add(vectors, device_batch(targets, [3, 2], [1, 1]))
    assert closeness.figures() == pytest.approx(
        {
            "mse": (2 / 2) / 4,  # of four word positions: two tokens, two first pads
            "relative_mse": 0.5,
            "relative_mse_pad": (4 / 2) / 1 / 0.5,
            "cosine": 3 / 4,
        }
    )


def test_closeness_adds_up_over_batches():
    torch.manual_seed(0)
    targets, vectors = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    whole, parts = Closeness(2.0), Closeness(2.0)
    whole.add(vectors, device_batch(targets, [5, 4, 3, 5], [2, 3, 1, 4]))
    parts.add(vectors[:2], device_batch(targets[:2], [5, 4], [2, 3]))
    parts.add(vectors[2:], device_batch(targets[2:], [3, 5], [1, 4]))
    assert parts.figures() == pytest.approx(whole.figures())


def test_nothing_added_is_zero_not_an_error():
    assert Closeness(1.0).figures()["relative_mse"] == 0.0
