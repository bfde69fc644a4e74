"""Heads: what an LLM is given and which tokens are read, for each kind of projector."""

from __future__ import annotations

import pytest
import torch

from speechmapper.heads import Head
from speechmapper.projector import HEADS, Projected, ProjectorConfig
from tests.speechmapper.heads.test_rows import mixed_by_hand
from tests.speechmapper.tiny import llama

CPU = torch.device("cpu")
PAD = 0


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    return llama().get_input_embeddings().weight.detach()


def head(table: torch.Tensor, readout: str, kind: str, **settings) -> Head:
    return Head(ProjectorConfig(readout=readout, head=kind, **settings), table, PAD, CPU)


def noisy(rows: torch.Tensor) -> torch.Tensor:
    return rows + 0.05 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def by_position(table) -> Projected:
    """Read by nearest token: 12 12 20, and 7; each followed by pads."""
    vectors = noisy(table[torch.tensor([[12, 12, 20, PAD, PAD], [7, PAD, PAD, 0, 0]])])
    vectors[1, 3:] = 0
    return Projected(vectors, torch.tensor([5, 3]), vectors)


@pytest.fixture
def by_runs(table) -> Projected:
    """CTC paths of 12 12 20, and of nothing."""
    blank = 3 + torch.zeros(table.shape[1])
    first = torch.stack([blank, table[12], table[12], blank, table[12], table[20], blank])
    second = torch.stack([*[blank] * 2, *[0 * blank] * 5])
    return Projected(noisy(torch.stack([first, second])), torch.tensor([7, 2]), first, blank)


@pytest.fixture
def by_firing(table) -> Projected:
    """Two positions for each of 12 and 20, half a vector each, and a weight of one in all."""
    vectors = torch.stack([2 * table[12], 0 * table[12], 2 * table[20], 0 * table[20], table[9]])[None]
    firing = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.1]])
    return Projected(vectors, torch.tensor([5]), vectors, firing_BU=firing)


def test_tokens_of_each_readout(table, by_position, by_runs, by_firing):
    assert head(table, "nearest", "vectors").token_ids(by_position) == [[12, 12, 20, PAD, PAD], [7, PAD, PAD]]
    assert head(table, "ctc", "rows").token_ids(by_runs) == [[12, 12, 20], []]
    assert head(table, "cif", "cif").token_ids(by_firing) == [[12, 20]]


@pytest.mark.parametrize("readout", ["nearest", "ctc", "cif"])
def test_no_head_changes_which_tokens_are_read(table, readout, by_position, by_runs, by_firing):
    given = {"nearest": by_position, "ctc": by_runs, "cif": by_firing}[readout]
    found = [head(table, readout, kind).token_ids(given) for kind in HEADS[readout]]
    assert all(each == found[0] for each in found)


def test_vectors_are_given_as_they_are(table, by_position, by_runs):
    for readout, given in (("nearest", by_position), ("ctc", by_runs)):
        inputs, lengths = head(table, readout, "vectors").inputs(given)
        assert inputs is given.vectors_BUE and lengths is given.vectors_B


def test_segments_are_means_of_runs_or_the_vectors_that_are_no_pads(table, by_position, by_runs):
    inputs, lengths = head(table, "ctc", "segments").inputs(by_runs)
    assert lengths.tolist() == [3, 0] and not inputs[1].any()
    first = by_runs.vectors_BUE[0]
    assert torch.allclose(inputs[0], torch.stack([first[1:3].mean(dim=0), first[4], first[5]]), atol=1e-6)
    inputs, lengths = head(table, "nearest", "segments").inputs(by_position)
    assert lengths.tolist() == [3, 1]
    assert torch.allclose(inputs[0], by_position.vectors_BUE[0, :3]) and not inputs[1, 1:].any()


def test_rows_are_means_of_the_mixtures_of_each_run(table, by_runs):
    inputs, lengths = head(table, "ctc", "rows", rows_temperature=0.7).inputs(by_runs)
    mixed = mixed_by_hand(by_runs.vectors_BUE[0], table, 0.7)
    assert lengths.tolist() == [3, 0]
    assert torch.allclose(inputs[0], torch.stack([mixed[1:3].mean(dim=0), mixed[4], mixed[5]]), atol=1e-5)


def test_a_learned_temperature_takes_the_place_of_the_set_one(table, by_runs):
    learned = Projected(
        by_runs.vectors_BUE, by_runs.vectors_B, by_runs.hidden_BTC, by_runs.blank_E, temperature=torch.tensor(0.7)
    )
    expected, _ = head(table, "ctc", "rows", rows_temperature=0.35).inputs(by_runs)
    found, _ = head(table, "ctc", "rows", ctc_temperature=0.2, rows_temperature=0.1).inputs(learned)
    assert torch.allclose(found, expected, atol=1e-6), "half of the one learned, as of the one set"


def test_rows_of_pooled_vectors_mix_after_pooling(table, by_firing):
    inputs, lengths = head(table, "cif", "rows").inputs(by_firing)
    assert lengths.tolist() == [2]
    assert torch.allclose(inputs[0], mixed_by_hand(table[[12, 20]], table, 0.05), atol=1e-5)
    pooled, _ = head(table, "cif", "cif").inputs(by_firing)
    assert torch.allclose(pooled[0], table[[12, 20]], atol=1e-5)


@pytest.mark.parametrize("readout", ["nearest", "ctc", "cif"])
def test_tokens_are_rows_of_the_table(table, readout, by_position, by_runs, by_firing):
    given = {"nearest": by_position, "ctc": by_runs, "cif": by_firing}[readout]
    inputs, lengths = head(table, readout, "tokens").inputs(given)
    kept = [[token for token in row if token != PAD] for row in head(table, readout, "tokens").token_ids(given)]
    assert lengths.tolist() == [len(row) for row in kept]
    for row, ids in zip(inputs, kept, strict=True):
        assert torch.equal(row[: len(ids)], table[ids]) and not row[len(ids) :].any()


def test_blanks_may_be_one_vector_before_the_others(table, by_runs):
    for kind in ("segments", "rows"):
        dropped, _ = head(table, "ctc", kind).inputs(by_runs)
        inputs, lengths = head(table, "ctc", kind, blanks="first").inputs(by_runs)
        assert lengths.tolist() == [4, 1]
        assert torch.allclose(inputs[0, 1:], dropped[0], atol=1e-6)
    blanks = by_runs.vectors_BUE[0, [0, 3, 6]].mean(dim=0)
    assert torch.allclose(head(table, "ctc", "segments", blanks="first").inputs(by_runs)[0][0, 0], blanks, atol=1e-6)


def test_inputs_are_compared_with_the_padded_targets(table, by_position, by_runs):
    found = head(table, "ctc", "tokens").padded_inputs(by_runs)
    assert torch.equal(found[0], table[[12, 12, 20, PAD, PAD, PAD, PAD]])
    assert torch.equal(found[1, :2], table[[PAD, PAD]]) and not found[1, 2:].any()
    assert torch.equal(head(table, "nearest", "vectors").padded_inputs(by_position), by_position.vectors_BUE)


@pytest.mark.parametrize("kind", ["vectors", "segments", "rows"])
def test_gradients_reach_the_vectors(table, by_runs, kind):
    vectors = by_runs.vectors_BUE.clone().requires_grad_()
    given = Projected(vectors, by_runs.vectors_B, by_runs.hidden_BTC, by_runs.blank_E)
    inputs, _ = head(table, "ctc", kind, rows_temperature=1.0).inputs(given)
    inputs.square().sum().backward()
    assert vectors.grad[0, [1, 2, 4, 5]].abs().sum(dim=1).min() > 0


def test_probable_tokens_of_each_utterances_own_vectors(table, by_runs):
    first, second = head(table, "ctc", "rows", ctc_temperature=0.7).top_tokens(by_runs, 4)
    assert first.ids_PK.shape == (7, 4) and second.ids_PK.shape == (2, 4)
    assert first.ids_PK[[1, 2, 4, 5], 0].tolist() == [12, 12, 12, 20]
    said = first.log_probs_PK[:, 0] > first.blank_P
    assert said.tolist() == [False, True, True, False, True, True, False]
    learned = Projected(
        by_runs.vectors_BUE, by_runs.vectors_B, by_runs.hidden_BTC, by_runs.blank_E, temperature=torch.tensor(0.7)
    )
    again = head(table, "ctc", "rows").top_tokens(learned, 4)[0]
    assert torch.equal(again.log_probs_PK, first.log_probs_PK)


def test_only_ctc_has_probable_tokens(table, by_position):
    with pytest.raises(ValueError, match="readout nearest: only a projector of readout ctc has a blank"):
        head(table, "nearest", "vectors").top_tokens(by_position, 4)


def test_trimming_ends_before_the_first_pad_and_keeps_a_vector(table):
    """12 20 pad 12; nothing but pads; no pad at all; a pad only beyond its length."""
    ids = torch.tensor([[12, 20, PAD, 12], [PAD, PAD, PAD, PAD], [7, 7, 7, 7], [7, 9, PAD, PAD]])
    lengths = torch.tensor([4, 3, 4, 2])
    vectors = noisy(table[ids]).requires_grad_()
    inside = torch.arange(4)[None] < lengths[:, None]
    projected = Projected(vectors * inside[..., None], lengths, vectors)
    whole = head(table, "nearest", "vectors")
    given, counts = whole.inputs(projected)
    assert torch.equal(given, projected.vectors_BUE) and torch.equal(counts, lengths)
    trimmed = head(table, "nearest", "vectors", trim=True)
    given, counts = trimmed.inputs(projected)
    assert counts.tolist() == [2, 1, 4, 2]
    kept = torch.arange(4)[None] < counts[:, None]
    assert torch.equal(given, vectors * kept[..., None])
    given.sum().backward()
    assert torch.equal(vectors.grad != 0, kept[..., None].expand_as(vectors))
    assert trimmed.token_ids(projected) == whole.token_ids(projected)
    padded = trimmed.padded_inputs(projected)
    expected = torch.where(kept[..., None], vectors, table[PAD]) * inside[..., None]
    assert torch.equal(padded, expected)


def test_projectors_of_before_are_not_trimmed():
    settings = ProjectorConfig().to_dict()
    assert settings.pop("trim") is False
    assert ProjectorConfig.from_dict(settings).trim is False
