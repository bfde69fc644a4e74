"""Stage 1 objectives against the reference on ragged batches."""

from __future__ import annotations

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.config import ObjectiveConfig
from speechmapper.objectives import Answers, Objective
from speechmapper.objectives.base import word_and_pad_positions
from speechmapper.objectives.build import PARTS, build_objective
from speechmapper.objectives.cosine import Cosine
from speechmapper.objectives.distance import WeightedDistance
from speechmapper.projector import Projected, ProjectorConfig
from tests.reference.loss import cosine, l1_error, stage1_loss

E = 5
Batch = tuple[Projected, Answers]


def ragged_batch(seed: int, utterances: int) -> Batch:
    """Random vectors and targets; lengths from 1 to 9, tokens below them; what lies beyond must never count."""
    generator = torch.Generator().manual_seed(seed)
    vectors_B = torch.randint(1, 10, (utterances,), generator=generator)
    tokens_B = torch.stack([torch.randint(0, int(size), (), generator=generator) for size in vectors_B])
    shape = (utterances, int(vectors_B.max()) + 2, E)
    vectors = torch.randn(shape, generator=generator)
    targets = torch.randn(shape, generator=generator)
    ids = torch.randint(0, 11, (utterances, 9), generator=generator)
    return projected(vectors, vectors_B), Answers(targets, vectors_B, tokens_B, ids, 4 * vectors_B)


def projected(vectors: torch.Tensor, vectors_B: torch.Tensor) -> Projected:
    return Projected(vectors, vectors_B, vectors, None)


def rows(batch: Batch, start: int, stop: int) -> Batch:
    found, answers = batch
    some = slice(start, stop)
    fields = (answers.targets_BUE, answers.vectors_B, answers.tokens_B, answers.token_ids_BN, answers.frames_B)
    return projected(found.vectors_BUE[some], found.vectors_B[some]), Answers(*(field[some] for field in fields))


def as_reference(batch: Batch) -> list[dict]:
    found, answers = batch
    return [
        {
            "vectors": found.vectors_BUE[b, :u].tolist(),
            "targets": answers.targets_BUE[b, :u].tolist(),
            "tokens": int(answers.tokens_B[b]),
        }
        for b, u in enumerate(answers.vectors_B.tolist())
    ]


def loss_of(part, batch: Batch) -> torch.Tensor:
    return part.combine(part(*batch), part.counts(batch[1]))


def mse_and_cosine(alpha: float, weight: float, reduction: str = "normalized", scale: float = 1.0) -> Objective:
    return Objective({"mse": (WeightedDistance(alpha, reduction, scale), 1.0), "cosine": (Cosine(), weight)})


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


def test_cosine_is_the_mean_over_word_positions():
    batch = ragged_batch(2, 4)
    by_hand = [
        cosine(vector, target)
        for utterance in as_reference(batch)
        for position, (vector, target) in enumerate(zip(utterance["vectors"], utterance["targets"], strict=True))
        if position <= utterance["tokens"]
    ]
    assert loss_of(Cosine(), batch).item() == pytest.approx(-sum(by_hand) / len(by_hand), rel=1e-5)


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


def test_half_precision_vectors_are_summed_in_float32():
    found, answers = ragged_batch(7, 4)
    sums = mse_and_cosine(5.0, 1.0)(projected(found.vectors_BUE.bfloat16(), found.vectors_B), answers)
    assert {value.dtype for value in sums.values()} == {torch.float32}


def test_perfect_vectors_have_no_error_and_full_cosine():
    _, answers = ragged_batch(8, 4)
    batch = (projected(answers.targets_BUE, answers.vectors_B), answers)
    assert loss_of(mse_and_cosine(5.0, 3.0), batch).item() == pytest.approx(-3.0, abs=1e-5)


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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cosine_weight": -1.0}, "cosine_weight"),
        ({"cosine_weight": 100.0}, r"objective\.name mse has no cosine; add \+cosine"),
        ({"name": "mse+cosine", "ctc_weight": 0.5}, r"has no ctc"),
        ({"negatives": -1}, "negatives"),
        ({"ctc_temperature": 0.0}, "ctc_temperature"),
    ],
)
def test_impossible_weights_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ObjectiveConfig(**settings)


@pytest.mark.parametrize("name", ["mae", "mse+mse", "mse+l1", "cosine", "contrastive+ctc", "", "mse+"])
def test_impossible_names_are_refused(name, world):
    with pytest.raises(ConfigError, match=r"objective\.name"):
        build(world, name)


def build(world, name: str, readout: str = "nearest", **settings) -> Objective:
    sizes = ProjectorConfig(block_sizes=(8, 8), block_outputs=(6, 6), output_size=32, readout=readout)
    config = ObjectiveConfig(name, **settings)
    return build_objective(config, world.store.targets("tiny"), sizes, torch.device("cpu"))


def test_a_name_is_its_parts_and_their_weights_add(world):
    every = "+".join(name for name in PARTS if name not in ("l1", "ctc-embedding"))
    objective = build(world, every, cosine_weight=2.0, contrastive_weight=0.5, ctc_weight=3.0)
    assert list(objective.parts) == every.split("+")
    sums = {"word": 4.0, "pad": 2.0, "cosine": 0.5, "contrastive": 7.0, "ctc": 11.0, "ctc_unaligned": 0.0}
    ones = dict.fromkeys(sums, torch.tensor(1.0))
    loss = objective.combine({name: torch.tensor(value) for name, value in sums.items()}, ones)
    assert loss.item() == pytest.approx(5 * 4 + 5 * 2 - 2 * 0.5 + 0.5 * 7 + 3 * 11)


def test_what_learns_beside_the_projector(world):
    names = {name for name, _ in build(world, "mse+ctc").named_parameters()}
    assert names == {"parts.ctc.linear.weight", "parts.ctc.linear.bias", "parts.ctc.blank_E"}
    assert not list(build(world, "l1+cosine+contrastive").state_dict())


def test_ctc_embedding_needs_a_projector_with_a_blank(world):
    with pytest.raises(ConfigError, match="not trained with ctc-embedding"):
        build(world, "ctc-embedding")
    assert not list(build(world, "ctc-embedding", readout="ctc").parameters())
