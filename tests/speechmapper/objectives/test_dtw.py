"""The alignment objective, against all alignments written out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.objectives.base import Answers
from speechmapper.objectives.dtw import DynamicTimeWarping, align
from speechmapper.projector import Projected
from tests.reference import loss as reference
from tests.speechmapper.objectives.ragged import answers

WIDTH, MEAN, SCALE = 4, torch.tensor([0.2, -0.1, 0.0, 0.3]), 0.7
CASES = ([1, 2, 3], [4], [5, 6], [])
VECTORS = (6, 1, 5, 3)


def batch(seed: int = 0) -> tuple[Projected, Answers]:
    """Ragged, with an utterance that has no text; what lies beyond lengths is absurd."""
    generator = torch.Generator().manual_seed(seed)
    given = answers([list(ids) for ids in CASES], list(VECTORS))
    targets = torch.randn(len(CASES), max(VECTORS), WIDTH, generator=generator)
    vectors = torch.randn(len(CASES), max(VECTORS), WIDTH, generator=generator)
    firing = torch.rand(len(CASES), max(VECTORS), generator=generator)
    for row, size in enumerate(VECTORS):
        vectors[row, size:], firing[row, size:] = 1e6, 0
    made = Projected(vectors.requires_grad_(), given.vectors_B, vectors, firing_BU=firing.requires_grad_())
    return made, dataclasses.replace(given, targets_BUE=targets)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_reference(seed):
    made, given = batch(seed)
    expected = dict.fromkeys(("dtw", "dtw_cosine", "dtw_firing"), 0.0)
    for row, (size, ids) in enumerate(zip(VECTORS, CASES, strict=True)):
        if ids:
            vectors, rows = made.vectors_BUE[row, :size].tolist(), given.targets_BUE[row, : len(ids)].tolist()
            firing = made.firing_BU[row, :size].tolist()
            for name, value in reference.dtw(vectors, rows, firing, MEAN.tolist(), SCALE).items():
                expected[name] += value
    part = DynamicTimeWarping(MEAN, SCALE)
    sums, counts = part(made, given), part.counts(given)
    assert {name: value.item() for name, value in sums.items()} == pytest.approx(expected, rel=1e-4)
    assert [count.item() for count in counts.values()] == [6, 6, 6]
    loss = 5 * expected["dtw"] / 6 + 10 * (1 - expected["dtw_cosine"] / 6) + expected["dtw_firing"] / 6
    assert part.combine(sums, counts).item() == pytest.approx(loss, rel=1e-4)


def test_vectors_and_firing_learn_but_not_what_lies_beyond():
    made, given = batch()
    part = DynamicTimeWarping(MEAN, SCALE)
    part.combine(part(made, given), part.counts(given)).backward()
    for row, (size, ids) in enumerate(zip(VECTORS, CASES, strict=True)):
        for gradient in (made.vectors_BUE.grad[row], made.firing_BU.grad[row]):
            assert not gradient[size:].any() and bool(gradient[:size].any()) == bool(ids)


def test_the_cheapest_path_gives_every_token_a_vector():
    cost = torch.tensor([[[0.0, 9, 9], [0, 9, 9], [0, 9, 9], [0, 9, 9]]])
    assert align(cost, torch.tensor([4]), torch.tensor([3])).tolist() == [[0, 0, 1, 2]]
    assert align(cost, torch.tensor([3]), torch.tensor([1])).tolist() == [[0, 0, 0, -1]]


def test_a_projector_without_firing_weights_is_refused():
    made, given = batch()
    with pytest.raises(ConfigError, match="no firing weights"):
        DynamicTimeWarping(MEAN, SCALE)(dataclasses.replace(made, firing_BU=None), given)
