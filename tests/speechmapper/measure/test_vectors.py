"""Nearest tokens and distances, against the obvious computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.measure.vectors import Closeness, Lengths, Norms
from tests.speechmapper.tiny import llama

CPU = torch.device("cpu")


@pytest.fixture
def table() -> torch.Tensor:
    return llama().get_input_embeddings().weight.detach()


def device_batch(targets: torch.Tensor, vectors_B: list[int], tokens_B: list[int]) -> DeviceBatch:
    zeros = torch.zeros(len(vectors_B), dtype=torch.long)
    lengths = (torch.tensor(vectors_B), torch.tensor(tokens_B))
    return DeviceBatch(targets, *lengths, zeros[:, None], zeros, targets, np.zeros(2), 0)


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
            "mse_pad": (4 / 2) / 1,
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


def test_lengths_by_hand():
    lengths = Lengths()
    lengths.add([2, 5], [3, 3])
    lengths.add([4], [4])
    assert lengths.figures() == pytest.approx({"length_error": (1 + 2 + 0) / 3, "length_ratio": 11 / 10})


def test_norms_are_in_units_of_the_tables_median():
    table = np.diag([1.0, 2.0, 2.0, 4.0]).astype(np.float32)
    norms = Norms(table)
    vectors = torch.zeros(1, 3, 4)
    vectors[0, 0, 0], vectors[0, 1, 1], vectors[0, 2, 2] = 2.0, 6.0, 1e9  # the last is a pad behind the first
    norms.add(vectors, device_batch(torch.zeros(1, 3, 4), [3], [1]))
    assert sorted(norms.values().tolist()) == [2.0, 6.0]
    assert norms.figures() == pytest.approx({"norm_p05": 1.1, "norm_p50": 2.0, "norm_p95": 2.9})
    bins = norms.histogram()
    assert sum(bins["vectors"]) == pytest.approx(1) == sum(bins["table"])
    for name, values in (("vectors", [2.0, 6.0]), ("table", [1.0, 2.0, 2.0, 4.0])):
        for edge, share in zip(bins["edges"], bins[name], strict=True):
            upper = edge + bins["edges"][1] if edge != bins["edges"][-1] else np.inf
            assert share == pytest.approx(sum(edge <= value < upper for value in values) / len(values))
