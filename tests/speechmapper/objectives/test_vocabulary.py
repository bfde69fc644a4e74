"""Softmax over a vocabulary, some positions at a time, and the choice of rows."""

from __future__ import annotations

import pytest
import torch

from speechmapper.objectives import vocabulary
from speechmapper.objectives.vocabulary import Rows, Vocabulary, distance_rows, log_probs, log_sum_exp
from tests.speechmapper.objectives.ragged import TABLE_ROWS, TABLE_WIDTH


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_log_probs_are_a_softmax_over_both_groups(table, monkeypatch, chunk):
    monkeypatch.setattr(vocabulary, "CHUNK_SCORES", chunk)
    vectors = torch.randn(5, TABLE_WIDTH, requires_grad=True)
    bias = torch.randn(TABLE_ROWS)
    whole = torch.log_softmax(vectors @ table.T + bias, dim=-1)[:, [1, 4]]
    some, others = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5, 6])
    found = log_probs(vectors, Rows(table, bias).pick(some), Rows(table, bias).pick(others))
    assert torch.allclose(found, whole, atol=1e-5)
    weights = torch.randn(5, 2)
    gradients = [torch.autograd.grad((each * weights).sum(), vectors)[0] for each in (found, whole)]
    assert torch.allclose(*gradients, atol=1e-5)


def test_distance_rows_are_negative_squared_distances_in_a_softmax(table):
    vectors = torch.randn(3, TABLE_WIDTH)
    expected = torch.log_softmax(-torch.cdist(vectors, table).square() / 0.7, dim=-1)
    rows = distance_rows(table, Vocabulary(table, 0).norms_V, 0.7)
    assert torch.allclose(torch.log_softmax(rows.scores(vectors), dim=-1), expected, atol=1e-4)
    assert rows.rows_VE is table, "no copy"


def test_columns_hold_each_row_once(table):
    labels = torch.tensor([5, 2, 5])
    torch.manual_seed(0)
    drawn = [Vocabulary(table, 4).columns(labels) for _ in range(20)]
    assert all(own.tolist() == [2, 5] for own, _ in drawn)
    assert all(not {2, 5} & set(others.tolist()) and len(set(others.tolist())) == len(others) for _, others in drawn)
    assert {len(others) for _, others in drawn} <= {0, 1, 2, 3, 4} and len({tuple(o.tolist()) for _, o in drawn}) > 5


@pytest.mark.parametrize("with_blank", [False, True])
def test_log_probs_of_a_batchs_own_tokens_over_the_whole_table(table, with_blank):
    vectors, labels = torch.randn(5, TABLE_WIDTH), torch.tensor([[5, 2], [5, 2]])
    rows = Rows(table, torch.randn(TABLE_ROWS), 0.7)
    blank = (torch.randn(TABLE_WIDTH), torch.tensor(0.3)) if with_blank else None
    scores = 0.7 * vectors @ table.T + rows.bias_V
    columns = [2, 5]
    if blank is not None:
        scores = torch.cat([scores, (0.7 * vectors @ blank[0] + 0.3)[:, None]], dim=1)
        columns = [2, 5, TABLE_ROWS]
    found, own = Vocabulary(table, 0).log_probs(vectors, labels, rows, blank)
    assert own.tolist() == [2, 5]
    assert torch.allclose(found, scores.log_softmax(dim=1)[:, columns], atol=1e-5)


def test_log_probs_over_the_rows_drawn_leave_the_others_out(table):
    vectors, labels = torch.randn(5, TABLE_WIDTH), torch.tensor([5, 2])
    rows, some = Rows(table, torch.zeros(TABLE_ROWS)), Vocabulary(table, 2)
    torch.manual_seed(3)
    found, own = some.log_probs(vectors, labels, rows)
    torch.manual_seed(3)
    own_K, others = some.columns(labels)
    expected = (vectors @ table[torch.cat([own_K, others])].T).log_softmax(dim=1)[:, : len(own_K)]
    assert own.tolist() == own_K.tolist() and torch.allclose(found, expected, atol=1e-5)


def test_no_rows_add_nothing(table):
    vectors = torch.randn(3, TABLE_WIDTH)
    nothing = Rows(table[:0], torch.zeros(0))
    assert log_sum_exp(vectors, nothing).tolist() == [float("-inf")] * 3
    whole = Rows(table, torch.zeros(TABLE_ROWS))
    assert torch.allclose(log_probs(vectors, whole, nothing), torch.log_softmax(vectors @ table.T, dim=-1), atol=1e-5)


def test_one_more_row_is_the_last(table):
    more = Rows(table, torch.zeros(TABLE_ROWS)).with_row(torch.ones(TABLE_WIDTH), torch.tensor(2.0))
    assert (len(more.rows_VE), more.bias_V[-1].item()) == (TABLE_ROWS + 1, 2.0)
    assert torch.equal(more.rows_VE[-1], torch.ones(TABLE_WIDTH))


def test_row_scale_is_the_mean_squared_norm():
    assert Vocabulary(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 0).row_scale == 13.0
