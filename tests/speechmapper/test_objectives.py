"""Stage 1 loss against the reference on ragged batches."""

from __future__ import annotations

import itertools

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.objectives import WeightedMSE
from speechmapper.objectives.mse import word_and_pad_positions
from tests.reference.loss import stage1_loss

E = 5


def ragged_batch(seed: int, utterances: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random vectors and targets; lengths from 1 to 9, tokens below them; NaN beyond, which must never count."""
    generator = torch.Generator().manual_seed(seed)
    vectors_B = torch.randint(1, 10, (utterances,), generator=generator)
    tokens_B = torch.stack([torch.randint(0, int(size), (), generator=generator) for size in vectors_B])
    shape = (utterances, int(vectors_B.max()) + 2, E)
    vectors = torch.randn(shape, generator=generator, dtype=torch.float32)
    targets = torch.randn(shape, generator=generator, dtype=torch.float32)
    return vectors, vectors_B, targets, tokens_B


def as_reference(vectors, vectors_B, targets, tokens_B) -> list[dict]:
    return [
        {"vectors": vectors[b, :u].tolist(), "targets": targets[b, :u].tolist(), "tokens": int(tokens_B[b])}
        for b, u in enumerate(vectors_B.tolist())
    ]


@pytest.mark.parametrize("reduction", ["mean_dim", "sum_dim", "normalized"])
@pytest.mark.parametrize(("alpha", "cosine_weight"), [(5.0, 0.0), (1.0, 1.0), (9.0, 100.0), (7.5, 0.25)])
def test_equals_the_reference_on_ragged_batches(reduction, alpha, cosine_weight):
    objective = WeightedMSE(alpha, cosine_weight, reduction, table_scale=2.7)
    for seed in range(10):
        batch = ragged_batch(seed, utterances=1 + seed)
        terms = objective(*batch)
        expected = stage1_loss(as_reference(*batch), alpha, cosine_weight, reduction, 2.7)
        loss = objective.combine(terms.sums, terms.counts)
        assert loss.item() == pytest.approx(expected["loss"], rel=1e-5, abs=1e-5)
        assert (terms.counts["word"].item(), terms.counts["pad"].item()) == expected["counts"]
        mean_word = (terms.sums["word"] / terms.counts["word"]).item()
        assert mean_word == pytest.approx(expected["word"], rel=1e-5)


def test_the_first_pad_is_a_word_position_and_the_rest_are_pads():
    word, pad = word_and_pad_positions(torch.tensor([5, 3, 1]), torch.tensor([2, 2, 0]), size=6)
    assert word.int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert pad.int().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_batch_padding_never_counts():
    vectors, vectors_B, targets, tokens_B = ragged_batch(3, 6)
    objective = WeightedMSE(5.0, 1.0)
    before = objective(vectors, vectors_B, targets, tokens_B)
    for row, size in enumerate(vectors_B.tolist()):
        vectors[row, size:] = 1e4
        targets[row, size:] = -1e4
    after = objective(vectors, vectors_B, targets, tokens_B)
    for name in before.sums:
        assert torch.equal(before.sums[name], after.sums[name])


def test_no_gradient_reaches_batch_padding():
    vectors, vectors_B, targets, tokens_B = ragged_batch(4, 5)
    vectors.requires_grad_()
    objective = WeightedMSE(5.0, 1.0)
    terms = objective(vectors, vectors_B, targets, tokens_B)
    objective.combine(terms.sums, terms.counts).backward()
    for row, size in enumerate(vectors_B.tolist()):
        assert vectors.grad[row, size:].abs().sum() == 0
        assert vectors.grad[row, :size].abs().sum() > 0


def test_sums_add_up_over_any_split_of_the_batch():
    batch = ragged_batch(5, 8)
    objective = WeightedMSE(7.0, 2.0)
    whole = objective(*batch)
    parts = [objective(*(tensor[start : start + 2] for tensor in batch)) for start in range(0, 8, 2)]
    sums = {name: sum(part.sums[name] for part in parts) for name in whole.sums}
    counts = {name: sum(part.counts[name] for part in parts) for name in whole.counts}
    assert objective.combine(sums, counts).item() == pytest.approx(
        objective.combine(whole.sums, whole.counts).item(), rel=1e-6
    )


def test_a_batch_without_pads_has_no_pad_loss():
    vectors, targets = torch.ones(1, 3, E), torch.zeros(1, 3, E)
    objective = WeightedMSE(5.0, reduction="mean_dim")
    terms = objective(vectors, torch.tensor([3]), targets, torch.tensor([2]))
    assert terms.counts["pad"].item() == 0
    assert objective.combine(terms.sums, terms.counts).item() == pytest.approx(5.0)


def test_normalized_does_not_depend_on_the_scale_of_the_table():
    vectors, vectors_B, targets, tokens_B = ragged_batch(6, 4)
    one = WeightedMSE(table_scale=1.0)(vectors, vectors_B, targets, tokens_B)
    scaled = WeightedMSE(table_scale=9.0)(vectors * 3, vectors_B, targets * 3, tokens_B)
    assert one.sums["word"].item() == pytest.approx(scaled.sums["word"].item(), rel=1e-5)


def test_half_precision_vectors_are_summed_in_float32():
    vectors, vectors_B, targets, tokens_B = ragged_batch(7, 4)
    terms = WeightedMSE()(vectors.bfloat16(), vectors_B, targets, tokens_B)
    assert terms.sums["word"].dtype == torch.float32


def test_perfect_vectors_have_no_error_and_full_cosine():
    _, vectors_B, targets, tokens_B = ragged_batch(8, 4)
    objective = WeightedMSE(5.0, cosine_weight=3.0)
    terms = objective(targets, vectors_B, targets, tokens_B)
    assert objective.combine(terms.sums, terms.counts).item() == pytest.approx(-3.0, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"alpha": 0.5}, "alpha 0.5"),
        ({"alpha": 9.5}, "from 1 to 9"),
        ({"alpha": float("nan")}, "alpha"),
        ({"reduction": "mean"}, "mean_dim, sum_dim, normalized"),
        ({"cosine_weight": -1.0}, "cosine_weight"),
        ({"table_scale": 0.0}, "table_scale"),
    ],
)
def test_impossible_settings_are_refused(settings, names):
    with pytest.raises(ConfigError, match=names):
        WeightedMSE(**settings)


def test_the_legend_of_the_docstring_holds():
    objective = WeightedMSE(alpha=8.0, reduction="sum_dim")
    for word, pad in itertools.product((1.0, 2.0), (3.0, 5.0)):
        sums = {"word": torch.tensor(word * 4), "pad": torch.tensor(pad * 2)}
        counts = {"word": torch.tensor(4.0), "pad": torch.tensor(2.0)}
        assert objective.combine(sums, counts).item() == pytest.approx(8 * word + 2 * pad)
