"""The sum of parts: over word and pad positions alone, and the same however a batch is split."""

from __future__ import annotations

import pytest
import torch

from speechmapper.objectives import Objective
from speechmapper.objectives.base import Part, mean, word_and_pad_positions
from speechmapper.objectives.cosine import Cosine
from speechmapper.objectives.distance import WeightedDistance
from tests.speechmapper.objectives.ragged import loss_of, projected, ragged_batch, rows


def mse_and_cosine(alpha: float, weight: float, reduction: str = "normalized", scale: float = 1.0) -> Objective:
    return Objective({"mse": (WeightedDistance(alpha, reduction, scale), 1.0), "cosine": (Cosine(), weight)})


def test_the_first_pad_is_a_word_position_and_the_rest_are_pads():
    word, pad = word_and_pad_positions(torch.tensor([5, 3, 1]), torch.tensor([2, 2, 0]), size=6)
    assert word.int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert pad.int().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_batch_padding_never_counts_and_gets_no_gradient():
    found, answers = ragged_batch(3, 6)
    objective = mse_and_cosine(5.0, 1.0)
    before = objective(found, answers)
    for row, size in enumerate(answers.vectors_B.tolist()):
        found.vectors_BUE[row, size:] = 1e4
        answers.targets_BUE[row, size:] = -1e4
    found.vectors_BUE.requires_grad_()
    after = objective(found, answers)
    assert all(torch.equal(before[name], after[name]) for name in before)
    objective.combine(after, objective.counts(answers)).backward()
    for row, size in enumerate(answers.vectors_B.tolist()):
        assert found.vectors_BUE.grad[row, size:].abs().sum() == 0
        assert found.vectors_BUE.grad[row, :size].abs().sum() > 0


def test_sums_add_up_over_any_split_of_the_batch():
    batch = ragged_batch(5, 8)
    objective = mse_and_cosine(7.0, 2.0)
    parts = [rows(batch, start, start + 2) for start in range(0, 8, 2)]
    sums = [objective(*part) for part in parts]
    counts = [objective.counts(part[1]) for part in parts]
    added = [{name: sum(each[name] for each in every) for name in every[0]} for every in (sums, counts)]
    assert objective.combine(*added).item() == pytest.approx(loss_of(objective, batch).item(), rel=1e-6)


def test_half_precision_vectors_are_summed_in_float32():
    found, answers = ragged_batch(7, 4)
    sums = mse_and_cosine(5.0, 1.0)(projected(found.vectors_BUE.bfloat16(), found.vectors_B), answers)
    assert {value.dtype for value in sums.values()} == {torch.float32}


def test_perfect_vectors_have_no_error_and_full_cosine():
    _, answers = ragged_batch(8, 4)
    batch = (projected(answers.targets_BUE, answers.vectors_B), answers)
    assert loss_of(mse_and_cosine(5.0, 3.0), batch).item() == pytest.approx(-3.0, abs=1e-5)


class Constant(Part):
    """Two positions with a sum of 6; `name` is its figure."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def counts(self, answers):
        return {self.name: torch.tensor(2.0)}

    def forward(self, projected, answers):
        return {self.name: torch.tensor(6.0)}

    def combine(self, sums, counts):
        return mean(sums, counts, self.name)


def test_parts_are_weighted_and_added_under_their_own_names():
    objective = Objective({"one": (Constant("a"), 0.5), "two": (Constant("b"), 10.0)})
    batch = ragged_batch(0, 2)
    sums, counts = objective(*batch), objective.counts(batch[1])
    assert (list(sums), list(counts)) == (["a", "b"], ["a", "b"])
    assert objective.combine(sums, counts).item() == 0.5 * 3 + 10 * 3


def test_the_mean_of_nothing_is_0():
    assert mean({"x": torch.tensor(0.0)}, {"x": torch.tensor(0.0)}, "x").item() == 0
    assert mean({"x": torch.tensor(3.0)}, {"x": torch.tensor(2.0)}, "x").item() == 1.5
