"""The weighted distance against the reference on ragged batches."""

from __future__ import annotations

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.objectives import Answers
from speechmapper.objectives.distance import WeightedDistance
from tests.reference.loss import l1_error, stage1_loss
from tests.speechmapper.objectives.ragged import E, as_reference, loss_of, projected, ragged_batch
from tests.speechmapper.objectives.test_base import mse_and_cosine


@pytest.mark.parametrize("reduction", ["mean_dim", "sum_dim", "normalized"])
@pytest.mark.parametrize(("alpha", "cosine_weight"), [(5.0, 0.0), (1.0, 1.0), (9.0, 100.0), (7.5, 0.25)])
def test_equals_the_reference_on_ragged_batches(reduction, alpha, cosine_weight):
    scale = 2.7  # mean square of the table's numbers; the reference wants that of a row
    objective = mse_and_cosine(alpha, cosine_weight, reduction, scale)
    for seed in range(10):
        batch = ragged_batch(seed, utterances=1 + seed)
        sums, counts = objective(*batch), objective.counts(batch[1])
        expected = stage1_loss(as_reference(batch), alpha, cosine_weight, reduction, scale * E)
        assert objective.combine(sums, counts).item() == pytest.approx(expected["loss"], rel=1e-5, abs=1e-5)
        assert (counts["word"].item(), counts["pad"].item()) == expected["counts"]
        assert (sums["word"] / counts["word"]).item() == pytest.approx(expected["word"], rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean_dim", "sum_dim", "normalized"])
def test_l1_equals_the_reference(reduction):
    part = WeightedDistance(7.0, reduction, table_scale=4.0, squared=False)
    unit = {"mean_dim": 1.0, "sum_dim": 1 / E, "normalized": 2.0}[reduction]
    batch = ragged_batch(1, 6)
    word, pad = [], []
    for utterance in as_reference(batch):
        for position, pair in enumerate(zip(utterance["vectors"], utterance["targets"], strict=True)):
            (word if position <= utterance["tokens"] else pad).append(l1_error(*pair) / unit)
    expected = 7 * sum(word) / len(word) + 3 * sum(pad) / len(pad)
    assert loss_of(part, batch).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_pads_has_no_pad_loss():
    one = torch.tensor([3])
    answers = Answers(torch.zeros(1, 3, E), one, torch.tensor([2]), torch.zeros(1, 2, dtype=torch.long), 4 * one)
    part = WeightedDistance(5.0, "mean_dim")
    assert part.counts(answers)["pad"].item() == 0
    assert loss_of(part, (projected(torch.ones(1, 3, E), one), answers)).item() == pytest.approx(5.0)


def test_normalized_does_not_depend_on_the_scale_of_the_table():
    found, answers = ragged_batch(6, 4)
    larger = Answers(
        answers.targets_BUE * 3, answers.vectors_B, answers.tokens_B, answers.token_ids_BN, answers.frames_B
    )
    for squared in (True, False):
        one = WeightedDistance(table_scale=1.0, squared=squared)
        scaled = WeightedDistance(table_scale=9.0, squared=squared)
        expected = loss_of(one, (found, answers)).item()
        grown = (projected(found.vectors_BUE * 3, found.vectors_B), larger)
        assert loss_of(scaled, grown).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"alpha": 0.5}, "alpha 0.5"),
        ({"alpha": 9.5}, "from 1 to 9"),
        ({"alpha": float("nan")}, "alpha"),
        ({"reduction": "mean"}, "mean_dim, sum_dim, normalized"),
        ({"table_scale": 0.0}, "table_scale"),
    ],
)
def test_impossible_settings_are_refused(settings, names):
    with pytest.raises(ConfigError, match=names):
        WeightedDistance(**settings)
