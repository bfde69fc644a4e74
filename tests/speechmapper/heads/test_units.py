"""Units: which positions belong to one token, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from speechmapper.heads.units import Units, fired_units, run_units, single_units, with_rest_first

B = -1


def weights(units: Units, row: int = 0) -> list[list[float]]:
    return units.weights_BNU[row].tolist()


def test_a_run_of_one_label_is_a_unit_and_a_blank_keeps_two_apart():
    units = run_units(torch.tensor([[B, 7, 7, B, 7, 9], [4, 4, 5, 5, 4, B]]))
    assert units.units_B.tolist() == [3, 3]
    assert weights(units) == [[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert weights(units, 1) == [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 1, 0]]


def test_every_label_by_itself():
    units = single_units(torch.tensor([[7, 7, B, 7], [B, B, B, 3]]))
    assert units.units_B.tolist() == [3, 1]
    assert weights(units) == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert weights(units, 1) == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("make", [single_units, run_units])
def test_an_utterance_may_say_nothing(make):
    units = make(torch.tensor([[B, B]]))
    assert units.units_B.tolist() == [0] and units.weights_BNU.shape == (1, 0, 2)


def test_firing_splits_a_position_where_the_sum_passes_a_whole_number():
    firing = torch.tensor([[0.4, 0.7, 0.6, 0.5, 0.1], [0.3, 0.3, 0.0, 0.0, 0.0], [0.3, 0.1, 0.0, 0.0, 0.0]])
    units = fired_units(firing)
    assert units.units_B.tolist() == [2, 1, 0]
    expected = torch.tensor([[0.4, 0.6, 0, 0, 0], [0, 0.1, 0.6, 0.3, 0]])
    assert torch.allclose(units.weights_BNU[0], expected, atol=1e-6)
    # What is left is a unit from one half on, and its weights are a mean.
    assert torch.allclose(units.weights_BNU[1, 0], torch.tensor([0.5, 0.5, 0, 0, 0]), atol=1e-6)
    assert not units.weights_BNU[2].any()


def test_firing_learns():
    firing = torch.tensor([[0.4, 0.7, 0.6, 0.5]], requires_grad=True)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    (fired_units(firing).weights_BNU @ values).sum().backward()
    assert firing.grad[0, :3].abs().min() > 0  # the last one reaches beyond the second unit, which is full


def test_the_rest_is_one_unit_before_the_others():
    labels = torch.tensor([[B, 7, 7, B], [4, 4, 5, 5]])
    units = with_rest_first(run_units(labels), labels == B)
    assert units.units_B.tolist() == [2, 2]
    assert weights(units) == [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0], [0, 0, 0, 0]]
    assert weights(units, 1) == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]
