"""Nearest tokens, against the obvious computation."""

from __future__ import annotations

import pytest
import torch

from speechmapper.readout import nearest as reading
from speechmapper.readout.nearest import NearestToken
from tests.speechmapper.tiny import llama, tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def table() -> torch.Tensor:
    return llama().get_input_embeddings().weight.detach()


@pytest.fixture
def nearest(table) -> NearestToken:
    return NearestToken(table.numpy(), tokenizer(), pad_id=0, device=CPU)


def test_equals_the_full_distance_matrix(table, nearest, monkeypatch):
    torch.manual_seed(1)
    vectors = table[torch.randint(0, len(table), (3, 7))] + 0.4 * torch.randn(3, 7, table.shape[1])
    lengths = torch.tensor([7, 2, 5])
    expected = [torch.cdist(vectors[row, :count], table).argmin(dim=1).tolist() for row, count in enumerate(lengths)]
    assert nearest.token_ids(vectors, lengths) == expected
    monkeypatch.setattr(reading, "CHUNK_SCORES", 2 * len(table))  # two positions at a time
    assert nearest.token_ids(vectors, lengths) == expected


def test_long_rows_do_not_win_by_their_length():
    """The dot product alone would choose the longer row."""
    table = torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    found = NearestToken(table, tokenizer(), 0, CPU).token_ids(torch.tensor([[[1.2, 0.0]]]), torch.tensor([1]))
    assert found == [[0]]


def test_autocast_does_not_round_the_scores(table, nearest):
    vectors = (table[None, :40] + 1e-3).clone()
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest.token_ids(vectors, torch.tensor([40]))
    assert found == [list(range(40))]


def test_pads_are_dropped_and_nothing_is_collapsed(nearest):
    ids = tokenizer()("the the dog")["input_ids"]
    assert nearest.texts([[0, *ids, 0, 0], [0, 0], [], [ids[0], 0, ids[2]]]) == ["the the dog", "", "", "the dog"]


def test_special_tokens_are_not_written(nearest):
    dog = tokenizer()("dog")["input_ids"]
    assert nearest.texts([[1, *dog, 2, 5]]) == ["dog"]


def test_with_a_blank_repeats_are_merged_and_blanks_dropped(table):
    """What connectionist temporal classification makes of a path; a blank keeps two equal tokens apart."""
    blank = 5 + torch.zeros(table.shape[1])
    reader = NearestToken(table.numpy(), tokenizer(), pad_id=0, device=CPU, blank_E=blank)
    path = [blank, table[12], table[12], blank, table[12], table[20], blank, blank]
    found = reader.token_ids(torch.stack(path)[None], torch.tensor([len(path)]))
    assert found == [[12, 12, 20]]
    assert reader.lengths(found) == [3]


def test_a_text_is_as_long_as_what_stands_before_its_first_pad(nearest):
    assert nearest.lengths([[7, 8, 0, 9], [0, 0], [7, 8]]) == [2, 0, 2]


def test_without_a_blank_every_position_is_a_token(table, nearest):
    rows = table[[12, 12, 20, 0, 0]]
    assert nearest.token_ids(rows[None], torch.tensor([5])) == [[12, 12, 20, 0, 0]]
