"""Nearest rows and mixtures of rows, against the obvious computation."""

from __future__ import annotations

import pytest
import torch

from speechmapper.heads import rows as rows_module
from speechmapper.heads.rows import TableRows
from tests.speechmapper.tiny import llama

CPU = torch.device("cpu")


@pytest.fixture
def table() -> torch.Tensor:
    return llama().get_input_embeddings().weight.detach()


@pytest.fixture
def vectors(table) -> torch.Tensor:
    torch.manual_seed(1)
    return table[torch.randint(0, len(table), (14,))] + 0.4 * torch.randn(14, table.shape[1])


def mixed_by_hand(vectors: torch.Tensor, table: torch.Tensor, temperature: float, top_k: int = 0) -> torch.Tensor:
    unit = temperature * table.square().sum(dim=1).mean()
    mixtures = []
    for vector in vectors:
        scores = -(vector - table).square().sum(dim=1) / unit
        if top_k:
            scores = torch.where(scores >= scores.sort(descending=True).values[top_k - 1], scores, -torch.inf)
        mixtures.append((scores.softmax(dim=0)[:, None] * table).sum(dim=0))
    return torch.stack(mixtures)


@pytest.mark.parametrize("chunk", [2, 1000])
def test_nearest_equals_the_full_distance_matrix(table, vectors, monkeypatch, chunk):
    monkeypatch.setattr(rows_module, "CHUNK_SCORES", chunk * len(table))
    assert TableRows(table, CPU).nearest(vectors).tolist() == torch.cdist(vectors, table).argmin(dim=1).tolist()


def test_some_rows_are_mixed_at_the_scale_of_all(table, vectors):
    some = torch.tensor([3, 9, 20, 41])
    unit = table.square().sum(dim=1).mean() / table[some].square().sum(dim=1).mean()
    expected = mixed_by_hand(vectors, table[some], 0.5 * float(unit))
    torch.testing.assert_close(TableRows(table, CPU).pick(some).mixed(vectors, 0.5), expected)


def test_long_rows_do_not_win_by_their_length():
    """The dot product alone would choose the longer row."""
    table = torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    assert TableRows(table.numpy(), CPU).nearest(torch.tensor([[1.2, 0.0]])).tolist() == [0]


def test_autocast_does_not_round_the_scores(table):
    with torch.autocast("cpu", torch.bfloat16):
        found = TableRows(table, CPU).nearest(table[:40] + 1e-3)
    assert found.tolist() == list(range(40))


def test_a_blank_that_is_nearer_than_all_rows_wins(table):
    blank = 5 + torch.zeros(table.shape[1])
    found = TableRows(table, CPU).nearest(torch.stack([blank, table[7], blank - 0.01]), blank)
    assert found.tolist() == [-1, 7, -1]


@pytest.mark.parametrize("chunk", [2, 1000])
@pytest.mark.parametrize(("temperature", "top_k"), [(0.1, 0), (1.0, 0), (1.0, 3), (1.0, 1), (1.0, 1000)])
def test_mixtures_equal_a_loop_over_vectors(table, vectors, monkeypatch, chunk, temperature, top_k):
    monkeypatch.setattr(rows_module, "CHUNK_SCORES", chunk * len(table))
    found = TableRows(table, CPU).mixed(vectors, temperature, top_k)
    by_hand = mixed_by_hand(vectors, table, temperature, 0 if top_k > len(table) else top_k)
    assert torch.allclose(found, by_hand, atol=1e-5)


def test_one_row_of_the_mixture_is_the_nearest_row(table, vectors):
    rows = TableRows(table, CPU)
    assert torch.allclose(rows.mixed(vectors, 0.3, top_k=1), table[rows.nearest(vectors)], atol=1e-6)


def test_gradients_of_mixtures_equal_those_of_the_loop(table, vectors, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_SCORES", 3 * len(table))
    weights = torch.randn(len(vectors), table.shape[1])
    gradients = []
    for mix in (lambda given, log: TableRows(table, CPU).mixed(given, log.exp()), None):
        given, log = vectors.clone().requires_grad_(), torch.tensor(-0.5, requires_grad=True)
        mixed = mix(given, log) if mix else mixed_by_hand(given, table, log.exp())
        gradients.append(torch.autograd.grad((mixed * weights).sum(), [given, log]))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-4)
    assert torch.allclose(gradients[0][1], gradients[1][1], rtol=1e-3)


def test_no_vectors_are_no_rows(table):
    rows = TableRows(table, CPU)
    nothing = torch.zeros(0, table.shape[1])
    assert rows.nearest(nothing).shape == (0,) and rows.mixed(nothing, 0.1).shape == (0, table.shape[1])


@pytest.mark.parametrize("chunk", [2, 1000])
@pytest.mark.parametrize(("temperature", "count"), [(0.1, 3), (1.0, 5), (torch.tensor(0.7), 1000)])
def test_probable_tokens_equal_a_softmax_over_all_rows_and_the_blank(
    table, vectors, monkeypatch, chunk, temperature, count
):
    monkeypatch.setattr(rows_module, "CHUNK_SCORES", chunk * len(table))
    blank = table[3] + 0.2
    with torch.autocast("cpu", torch.bfloat16):
        found = TableRows(table, CPU).log_probs_top(vectors, blank, temperature, count)
    unit = float(temperature) * table.square().sum(dim=1).mean()
    logits = -torch.cdist(vectors, torch.cat([table, blank[None]])).square() / unit
    expected, ids = logits.log_softmax(dim=1)[:, :-1].sort(dim=1, descending=True)
    assert torch.allclose(found.log_probs_PK, expected[:, :count], atol=1e-3)
    assert torch.equal(found.ids_PK[:, 0], ids[:, 0]) and found.ids_PK.shape == found.log_probs_PK.shape
    assert torch.allclose(found.blank_P, logits.log_softmax(dim=1)[:, -1], atol=1e-3)


def test_no_vectors_have_no_probable_tokens(table):
    found = TableRows(table, CPU).log_probs_top(torch.zeros(0, table.shape[1]), table[0], 0.1, 5)
    assert found.ids_PK.shape == found.log_probs_PK.shape == (0, 5) and found.blank_P.shape == (0,)
