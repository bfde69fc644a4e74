"""Nearest tokens and distances, against the obvious computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechmapper.loader.prefetch import DeviceBatch
from speechmapper.measure import vectors as readout
from speechmapper.measure.vectors import Closeness, Lengths, NearestToken, Norms
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
    monkeypatch.setattr(readout, "CHUNK_SCORES", 2 * len(table))  # two positions at a time
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


def device_batch(targets: torch.Tensor, vectors_B: list[int], tokens_B: list[int]) -> DeviceBatch:
    zeros = torch.zeros(len(vectors_B), dtype=torch.long)
    lengths = (torch.tensor(vectors_B), torch.tensor(tokens_B))
    return DeviceBatch(targets, *lengths, zeros[:, None], zeros, targets, np.zeros(2), 0)


def test_closeness_by_hand():
    targets = torch.zeros(2, 3, 2)
    targets[:, :, 0] = 1.0
    vectors = targets.clone()
    vectors[0, 0] = torch.tensor([0.0, 1.0])  # a word, at right angles: squared error 1 + 1, cosine 0
    vectors[0, 2] = torch.tensor([3.0, 0.0])  # a pad after the first: squared error 4
    vectors[1, 2] = 1e6  # beyond this row's length
    closeness = Closeness(table_scale=0.5)
    closeness.add(vectors, device_batch(targets, [3, 2], [1, 1]))
    assert closeness.figures() == pytest.approx(
        {
            "mse": (2 / 2) / 4,  # of four word positions: two tokens, two first pads
            "relative_mse": 0.5,
            "mse_pad": (4 / 2) / 1,
            "relative_mse_pad": (4 / 2) / 1 / 0.5,
            "cosine": 3 / 4,
        }
    )


def test_closeness_adds_up_over_batches():
    torch.manual_seed(0)
    targets, vectors = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    whole, parts = Closeness(2.0), Closeness(2.0)
    whole.add(vectors, device_batch(targets, [5, 4, 3, 5], [2, 3, 1, 4]))
    parts.add(vectors[:2], device_batch(targets[:2], [5, 4], [2, 3]))
    parts.add(vectors[2:], device_batch(targets[2:], [3, 5], [1, 4]))
    assert parts.figures() == pytest.approx(whole.figures())


def test_nothing_added_is_zero_not_an_error():
    assert Closeness(1.0).figures()["relative_mse"] == 0.0


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


def test_lengths_by_hand():
    lengths = Lengths()
    lengths.add([2, 5], [3, 3])
    lengths.add([4], [4])
    assert lengths.figures() == pytest.approx({"length_error": (1 + 2 + 0) / 3, "length_ratio": 11 / 10})


def test_norms_are_told_in_units_of_the_tables_median():
    table = np.diag([1.0, 2.0, 2.0, 4.0]).astype(np.float32)
    norms = Norms(table)
    vectors = torch.zeros(1, 3, 4)
    vectors[0, 0, 0], vectors[0, 1, 1], vectors[0, 2, 2] = 2.0, 6.0, 1e9  # the last is a pad behind the first
    norms.add(vectors, device_batch(torch.zeros(1, 3, 4), [3], [1]))
    assert sorted(norms.values().tolist()) == [2.0, 6.0]
    assert norms.figures() == pytest.approx({"norm_p05": 1.1, "norm_p50": 2.0, "norm_p95": 2.9})
    bins = norms.histogram()
    assert sum(bins["vectors"]) == pytest.approx(1) == sum(bins["table"])
    for name, values in (("vectors", [2.0, 6.0]), ("table", [1.0, 2.0, 2.0, 4.0])):
        for edge, share in zip(bins["edges"], bins[name], strict=True):
            upper = edge + bins["edges"][1] if edge != bins["edges"][-1] else np.inf
            assert share == pytest.approx(sum(edge <= value < upper for value in values) / len(values))
