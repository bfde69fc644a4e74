"""CTC in both forms against writing out every path."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sm_store import Geometry
from sm_store.errors import ConfigError
from speechmapper.objectives.ctc import AuxiliaryCTC, EmbeddingCTC, needed_positions
from speechmapper.objectives.vocabulary import Vocabulary
from speechmapper.projector import Projected
from tests.reference.loss import ctc_loss, log_softmax
from tests.speechmapper.objectives.ragged import RAGGED, TABLE_ROWS, TABLE_WIDTH, answers, random_vectors


def embedding_ctc(table: torch.Tensor, negatives: int = 0) -> EmbeddingCTC:
    return EmbeddingCTC(Vocabulary(table, negatives), temperature=0.5)


def by_hand(vectors: torch.Tensor, table: torch.Tensor, blank: torch.Tensor, tokens: list[int]) -> float:
    unit = 0.5 * float(table.square().sum(dim=-1).mean())
    rows = torch.cat([table, blank[None]])
    steps = [log_softmax([-float((vector - row).square().sum()) / unit for row in rows]) for vector in vectors]
    return ctc_loss(steps, tokens, blank=TABLE_ROWS)


def test_ctc_embedding_equals_writing_out_every_path(table):
    blank = torch.randn(TABLE_WIDTH, generator=torch.Generator().manual_seed(9))
    made = random_vectors(RAGGED, blank=blank)
    expected = [
        by_hand(made.vectors_BUE[row, :size].detach(), table, blank, tokens)
        for row, (size, tokens) in enumerate(zip([4, 2, 5], [[1, 2], [3], [2, 2, 5]], strict=True))
    ]
    part = embedding_ctc(table)
    sums, counts = part(made, RAGGED), part.counts(RAGGED)
    assert sums["ctc-embedding"].item() == pytest.approx(sum(expected), rel=1e-4)
    assert counts["ctc-embedding"].item() == 6
    assert part.combine(sums, counts).item() == pytest.approx(sum(expected) / 6, rel=1e-4)


def test_a_text_that_cannot_be_aligned_has_no_loss_and_is_counted(table):
    """Three tokens with a repetition need four positions."""
    given = answers([[2, 2, 5], [1]], [3, 3])
    assert needed_positions(given).tolist() == [4, 1]
    made, alone = random_vectors(given, blank=torch.zeros(TABLE_WIDTH)), answers([[1]], [3])
    part = embedding_ctc(table)
    sums, counts = part(made, given), part.counts(given)
    assert (sums["ctc-embedding_unaligned"].item(), counts["ctc-embedding_unaligned"].item()) == (1, 2)
    own = replace(made, vectors_BUE=made.vectors_BUE[1:], vectors_B=made.vectors_B[1:])
    assert sums["ctc-embedding"].item() == pytest.approx(part(own, alone)["ctc-embedding"].item(), rel=1e-5)
    assert counts["ctc-embedding"].item() == 1
    sums["ctc-embedding"].backward()
    assert made.vectors_BUE.grad[0].abs().sum() == 0


def test_the_blank_and_the_vectors_learn_but_not_what_lies_beyond(table):
    blank = torch.zeros(TABLE_WIDTH, requires_grad=True)
    made = random_vectors(RAGGED, blank=blank)
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
        expected += ctc_loss([log_softmax(step) for step in scores.tolist()], tokens, blank=TABLE_ROWS)
    sums = part(made, given)
    assert sums["ctc"].item() == pytest.approx(expected, rel=1e-4)
    sums["ctc"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_autocast_changes_nothing(table):
    part = embedding_ctc(table)
    made = random_vectors(RAGGED, blank=torch.zeros(TABLE_WIDTH))
    with torch.autocast("cpu", torch.bfloat16):
        inside = part(made, RAGGED)["ctc-embedding"]
    assert torch.equal(inside, part(made, RAGGED)["ctc-embedding"])


def test_a_projector_without_a_blank_is_refused(table):
    with pytest.raises(ConfigError, match="this projector has no blank"):
        embedding_ctc(table)(random_vectors(RAGGED), RAGGED)
