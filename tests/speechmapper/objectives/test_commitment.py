"""Commitment, against one position at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from speechmapper.objectives.commitment import clamped, commitment
from speechmapper.objectives.ctc import EmbeddingCTC
from speechmapper.objectives.vocabulary import Vocabulary
from tests.reference import loss as reference
from tests.speechmapper.objectives.ragged import RAGGED, TABLE_WIDTH, random_vectors


@pytest.fixture
def blank() -> torch.Tensor:
    return 0.5 * torch.randn(TABLE_WIDTH, generator=torch.Generator().manual_seed(9))


def part(table: torch.Tensor, weight: float | None) -> EmbeddingCTC:
    return EmbeddingCTC(Vocabulary(table, 0), 0.5, weight)


@pytest.mark.parametrize(("size", "above"), [(1.0, False), (6.0, True)])
def test_equals_the_reference_and_never_exceeds_the_ctc_loss(table, blank, size, above):
    made, scale = random_vectors(RAGGED, seed=4, blank=blank), float(table.square().sum(dim=1).mean())
    made = dataclasses.replace(made, vectors_BUE=made.vectors_BUE * size)
    own = {token: table[token].tolist() for token in (1, 2, 3, 5)}  # the tokens of the batch
    found, expected, limited = part(table, 1.0)(made, RAGGED), 0.0, 0
    losses = part(table, None).scored(made, RAGGED).loss_B.tolist()
    for row, (length, tokens) in enumerate(zip(RAGGED.vectors_B.tolist(), RAGGED.tokens_B.tolist(), strict=True)):
        distance = reference.commitment(made.vectors_BUE[row, :length].tolist(), own, blank.tolist(), scale)
        limited += distance > losses[row] / tokens
        expected += tokens * min(distance, losses[row] / tokens)
    assert found["commitment"].item() == pytest.approx(expected, rel=1e-5)
    assert bool(limited) == above
    assert found["ctc-embedding"].item() == pytest.approx(sum(losses), rel=1e-6)


def test_it_is_a_term_of_the_loss_with_its_weight(table, blank):
    made = random_vectors(RAGGED, blank=blank)
    plain, weighted = part(table, None), part(table, 0.25)
    sums, counts = weighted(made, RAGGED), weighted.counts(RAGGED)
    assert counts["commitment"] == counts["ctc-embedding"] == 6
    expected = plain.combine(plain(made, RAGGED), plain.counts(RAGGED)) + 0.25 * sums["commitment"] / 6
    assert torch.allclose(weighted.combine(sums, counts), expected)


def test_the_limit_takes_no_gradient():
    distance, limit = torch.tensor([4.0, 1.0], requires_grad=True), torch.tensor([2.0, 2.0], requires_grad=True)
    clamped(distance, limit).sum().backward()
    assert clamped(distance, limit).tolist() == [2.0, 1.0]
    assert distance.grad.tolist() == [0.5, 1.0] and limit.grad is None


def test_vectors_that_are_all_blank_have_none(table, blank):
    made = random_vectors(RAGGED, blank=blank)
    silent = dataclasses.replace(made, vectors_BUE=blank.expand(made.vectors_BUE.shape))
    assert part(table, 1.0)(silent, RAGGED)["commitment"] == 0


def test_without_tokens_there_are_no_rows():
    zeros = torch.zeros(2, 3, 4)
    valid = torch.ones(2, 3, dtype=torch.bool)
    assert commitment(zeros, torch.zeros(2, 3, 1), valid, torch.zeros(0, 4), 1.0).tolist() == [0, 0]
