"""The cosine part against a computation position by position."""

from __future__ import annotations

import pytest
import torch

from speechmapper.objectives.cosine import Cosine
from tests.reference.loss import cosine
from tests.speechmapper.objectives.ragged import as_reference, loss_of, projected, ragged_batch


def test_cosine_is_the_mean_over_word_positions():
    batch = ragged_batch(2, 4)
    by_hand = [
        cosine(vector, target)
        for utterance in as_reference(batch)
        for position, (vector, target) in enumerate(zip(utterance["vectors"], utterance["targets"], strict=True))
        if position <= utterance["tokens"]
    ]
    assert loss_of(Cosine(), batch).item() == pytest.approx(-sum(by_hand) / len(by_hand), rel=1e-5)


def test_cosine_ignores_lengths_of_vectors_and_pads():
    found, answers = ragged_batch(4, 5)
    loss = loss_of(Cosine(), (found, answers))
    scaled = projected(found.vectors_BUE * 7.0, found.vectors_B)
    assert torch.allclose(loss_of(Cosine(), (scaled, answers)), loss)
    for row, tokens in enumerate(answers.tokens_B.tolist()):
        found.vectors_BUE[row, tokens + 1 :] = 1e4
    assert torch.equal(loss_of(Cosine(), (found, answers)), loss)


def test_opposite_vectors_are_the_worst():
    _, answers = ragged_batch(5, 3)
    assert loss_of(Cosine(), (projected(-answers.targets_BUE, answers.vectors_B), answers)).item() == pytest.approx(1.0)
