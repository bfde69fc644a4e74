"""The contrastive part against a softmax written out."""

from __future__ import annotations

import pytest
import torch

from speechmapper.objectives.contrastive import Contrastive, labels
from speechmapper.objectives.vocabulary import Vocabulary
from tests.reference.loss import contrastive_loss
from tests.speechmapper.objectives.ragged import PAD, RAGGED, random_vectors


def test_contrastive_equals_the_reference(table):
    part = Contrastive(Vocabulary(table, 0), PAD, temperature=0.3)
    made = random_vectors(RAGGED)
    labels = [[1, 2, PAD], [3, PAD], [2, 2, 5, PAD]]
    expected = sum(
        contrastive_loss(made.vectors_BUE[row, : len(wanted)].tolist(), wanted, table.tolist(), 0.3)
        for row, wanted in enumerate(labels)
    )
    sums, counts = part(made, RAGGED), part.counts(RAGGED)
    assert counts["contrastive"].item() == 9
    assert sums["contrastive"].item() == pytest.approx(expected, rel=1e-5)
    assert part.combine(sums, counts).item() == pytest.approx(expected / 9, rel=1e-5)


def test_sampled_negatives_are_a_part_of_all(table):
    torch.manual_seed(1)
    full, none = (Contrastive(Vocabulary(table, count), PAD, 0.3) for count in (0, 1))
    made = random_vectors(RAGGED)
    assert none(made, RAGGED)["contrastive"] < full(made, RAGGED)["contrastive"]
    many = Contrastive(Vocabulary(table, 1000), PAD, 0.3)  # so many draws miss none of seven rows
    assert torch.allclose(many(made, RAGGED)["contrastive"], full(made, RAGGED)["contrastive"])


def test_labels_are_the_tokens_then_pads():
    assert labels(RAGGED, 5, PAD).tolist() == [[1, 2, PAD, PAD, PAD], [3, PAD, PAD, PAD, PAD], [2, 2, 5, PAD, PAD]]
    assert labels(RAGGED, 2, PAD).tolist() == [[1, 2], [3, PAD], [2, 2]]
