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
