"""Objectives that score against the whole vocabulary: contrastive, and CTC in both forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sm_store import Geometry
from speechmapper.objectives import Answers, vocabulary
from speechmapper.objectives.contrastive import Contrastive
from speechmapper.objectives.ctc import AuxiliaryCTC, EmbeddingCTC, needed_positions
from speechmapper.objectives.vocabulary import Rows, Vocabulary, distance_rows, log_probs
from speechmapper.projector import Projected
from tests.reference.loss import contrastive_loss, ctc_loss, log_softmax

E, V, PAD = 4, 7, 6


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(V, E, generator=torch.Generator().manual_seed(3))


def answers(ids: list[list[int]], vectors: list[int]) -> Answers:
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    vectors_B = torch.tensor(vectors)
    targets = torch.zeros(len(ids), max(vectors) + 1, E)
    return Answers(targets, vectors_B, torch.tensor([len(row) for row in ids]), padded, 2 * vectors_B)


def projected(given: Answers, seed: int = 0, blank: torch.Tensor | None = None) -> Projected:
    """Random vectors; absurd ones beyond the lengths, which must never count."""
    vectors = torch.randn(given.targets_BUE.shape, generator=torch.Generator().manual_seed(seed))
    for row, size in enumerate(given.vectors_B.tolist()):
        vectors[row, size:] = 1e6
    return Projected(vectors.requires_grad_(), given.vectors_B, vectors, blank)


RAGGED = answers([[1, 2], [3], [2, 2, 5]], [4, 2, 5])


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_log_probs_are_a_softmax_over_both_groups(table, monkeypatch, chunk):
    monkeypatch.setattr(vocabulary, "CHUNK_SCORES", chunk)
    vectors = torch.randn(5, E, requires_grad=True)
    bias = torch.randn(V)
    whole = torch.log_softmax(vectors @ table.T + bias, dim=-1)[:, [1, 4]]
    some, others = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5, 6])
    found = log_probs(vectors, Rows(table, bias).pick(some), Rows(table, bias).pick(others))
    assert torch.allclose(found, whole, atol=1e-5)
    weights = torch.randn(5, 2)
    gradients = [torch.autograd.grad((each * weights).sum(), vectors)[0] for each in (found, whole)]
    assert torch.allclose(*gradients, atol=1e-5)


def test_distance_rows_are_negative_squared_distances_in_a_softmax(table):
    vectors = torch.randn(3, E)
    expected = torch.log_softmax(-torch.cdist(vectors, table).square() / 0.7, dim=-1)
    assert torch.allclose(torch.log_softmax(distance_rows(table, 0.7).scores(vectors), dim=-1), expected, atol=1e-4)


def test_columns_hold_each_row_once(table):
    labels = torch.tensor([5, 2, 5])
    own, others = Vocabulary(table, 0).columns(labels)
    assert (own.tolist(), others.tolist()) == ([2, 5], [0, 1, 3, 4, 6])
    torch.manual_seed(0)
    drawn = [Vocabulary(table, 4).columns(labels) for _ in range(20)]
    assert all(own.tolist() == [2, 5] for own, _ in drawn)
    assert all(not {2, 5} & set(others.tolist()) and len(set(others.tolist())) == len(others) for _, others in drawn)
    assert {len(others) for _, others in drawn} <= {0, 1, 2, 3, 4} and len({tuple(o.tolist()) for _, o in drawn}) > 5


def test_contrastive_equals_the_reference(table):
    part = Contrastive(Vocabulary(table, 0), PAD, temperature=0.3)
    made = projected(RAGGED)
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
    made = projected(RAGGED)
    assert none(made, RAGGED)["contrastive"] < full(made, RAGGED)["contrastive"]
    many = Contrastive(Vocabulary(table, 1000), PAD, 0.3)  # so many draws miss none of seven rows
    assert torch.allclose(many(made, RAGGED)["contrastive"], full(made, RAGGED)["contrastive"])


def embedding_ctc(table: torch.Tensor, negatives: int = 0) -> EmbeddingCTC:
    return EmbeddingCTC(Vocabulary(table, negatives), temperature=0.5)


def by_hand(vectors: torch.Tensor, table: torch.Tensor, blank: torch.Tensor, tokens: list[int]) -> float:
    unit = 0.5 * float(table.square().sum(dim=-1).mean())
    rows = torch.cat([table, blank[None]])
    steps = [log_softmax([-float((vector - row).square().sum()) / unit for row in rows]) for vector in vectors]
    return ctc_loss(steps, tokens, blank=V)


def test_ctc_embedding_equals_writing_out_every_path(table):
    blank = torch.randn(E, generator=torch.Generator().manual_seed(9))
    made = projected(RAGGED, blank=blank)
    expected = [
        by_hand(made.vectors_BUE[row, :size].detach(), table, blank, tokens)
        for row, (size, tokens) in enumerate(zip([4, 2, 5], [[1, 2], [3], [2, 2, 5]], strict=True))
    ]
    part = embedding_ctc(table)
    sums, counts = part(made, RAGGED), part.counts(RAGGED)
    assert sums["ctc-embedding"].item() == pytest.approx(sum(expected), rel=1e-4)
    assert counts["ctc-embedding"].item() == 6
    assert part.combine(sums, counts).item() == pytest.approx(sum(expected) / 6, rel=1e-4)


def test_a_text_that_cannot_be_aligned_has_no_loss_and_is_told(table):
    """Three tokens with a repetition need four positions."""
    given = answers([[2, 2, 5], [1]], [3, 3])
    assert needed_positions(given).tolist() == [4, 1]
    made, alone = projected(given, blank=torch.zeros(E)), answers([[1]], [3])
    part = embedding_ctc(table)
    sums, counts = part(made, given), part.counts(given)
    assert (sums["ctc-embedding_unaligned"].item(), counts["ctc-embedding_unaligned"].item()) == (1, 2)
    own = replace(made, vectors_BUE=made.vectors_BUE[1:], vectors_B=made.vectors_B[1:])
    assert sums["ctc-embedding"].item() == pytest.approx(part(own, alone)["ctc-embedding"].item(), rel=1e-5)
    assert counts["ctc-embedding"].item() == 1
    sums["ctc-embedding"].backward()
    assert made.vectors_BUE.grad[0].abs().sum() == 0


def test_the_blank_and_the_vectors_learn_but_not_what_lies_beyond(table):
    blank = torch.zeros(E, requires_grad=True)
    made = projected(RAGGED, blank=blank)
    embedding_ctc(table)(made, RAGGED)["ctc-embedding"].backward()
    assert blank.grad.abs().sum() > 0 and torch.isfinite(blank.grad).all()
    for row, size in enumerate(RAGGED.vectors_B.tolist()):
        assert made.vectors_BUE.grad[row, size:].abs().sum() == 0
        assert made.vectors_BUE.grad[row, :size].abs().sum() > 0


def test_auxiliary_ctc_scores_block_1_by_the_rows_of_the_table(table):
    part = AuxiliaryCTC(Vocabulary(table, 0), hidden_size=3, frames_to_hidden=Geometry((2,), (2,), (0,)))
    torch.manual_seed(5)
    torch.nn.init.normal_(part.blank_E)
    given = answers([[1, 2], [3]], [4, 2])  # of 8 and 4 frames: as many positions after block 1
    hidden = torch.randn(2, 5, 3)
    made = Projected(given.targets_BUE, given.vectors_B, hidden, None)
    unit = math.sqrt(float(table.square().sum(dim=-1).mean()))
    rows = torch.cat([table / unit, part.blank_E.detach()[None]])
    expected = 0.0
    for row, (size, tokens) in enumerate([(4, [1, 2]), (2, [3])]):
        scores = part.linear(hidden[row, :size]).detach() @ rows.T
        expected += ctc_loss([log_softmax(step) for step in scores.tolist()], tokens, blank=V)
    sums = part(made, given)
    assert sums["ctc"].item() == pytest.approx(expected, rel=1e-4)
    sums["ctc"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_autocast_changes_nothing(table):
    part = embedding_ctc(table)
    made = projected(RAGGED, blank=torch.zeros(E))
    with torch.autocast("cpu", torch.bfloat16):
        inside = part(made, RAGGED)["ctc-embedding"]
    assert torch.equal(inside, part(made, RAGGED)["ctc-embedding"])
