"""The best path against trying every path."""

from __future__ import annotations

import itertools

import pytest
import torch

from speechmapper.objectives.forced_alignment import forced_alignment

BLANK = -1


def best_by_hand(scores_UN: list[list[float]], blank_U: list[float], ids: list[int]) -> list[int] | None:
    """The best of all labelings of the positions that collapse to 0, 1, ..., N - 1 and, where two neighbours are equal
    tokens, have a blank between them; None where there is none."""
    best, best_path = float("-inf"), None
    for path in itertools.product(range(BLANK, len(ids)), repeat=len(blank_U)):
        runs = [label for label, _ in itertools.groupby(path)]
        touching = [(one, two) for one, two in itertools.pairwise(runs) if one >= 0 and two >= 0]
        if [label for label in runs if label != BLANK] != list(range(len(ids))):
            continue
        if any(ids[one] == ids[two] for one, two in touching):
            continue
        score = sum(
            blank if label == BLANK else row[label] for label, row, blank in zip(path, scores_UN, blank_U, strict=True)
        )
        if score > best:
            best, best_path = score, list(path)
    return best_path


TEXTS = [[3, 3], [4], [2, 5, 2], [1, 1, 1], [7, 8, 9], [6, 6], []]
SIZES = [5, 1, 6, 5, 3, 2, 3]


def batch(seed: int):
    """Random scores; absurd ones beyond the lengths."""
    generator = torch.Generator().manual_seed(seed)
    longest, size = max(map(len, TEXTS)), max(SIZES) + 1
    scores = torch.randn(len(TEXTS), size, longest, generator=generator)
    blank = torch.randn(len(TEXTS), size, generator=generator)
    ids = torch.zeros(len(TEXTS), longest, dtype=torch.long)
    for row, (text, positions) in enumerate(zip(TEXTS, SIZES, strict=True)):
        scores[row, positions:], blank[row, positions:] = 1e6, -1e6
        scores[row, :, len(text) :] = 1e6
        ids[row, : len(text)] = torch.tensor(text)
    return scores, blank, ids, torch.tensor(SIZES), torch.tensor([len(text) for text in TEXTS])


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_trying_every_path(seed):
    scores, blank, ids, positions_B, tokens_B = batch(seed)
    found = forced_alignment(scores, blank, ids, positions_B, tokens_B)
    assert found.shape == blank.shape and found.dtype == torch.int64
    for row, (text, positions) in enumerate(zip(TEXTS, SIZES, strict=True)):
        expected = best_by_hand(scores[row, :positions].tolist(), blank[row, :positions].tolist(), text)
        assert found[row, positions:].eq(-1).all()
        assert found[row, :positions].tolist() == (expected or [-1] * positions), text


def test_a_text_without_room_for_its_blanks_has_no_path():
    """6 6 in two positions; 7 8 9 in three has one."""
    scores, blank, ids, positions_B, tokens_B = batch(0)
    found = forced_alignment(scores, blank, ids, positions_B, tokens_B)
    assert found[5].eq(-1).all()
    assert found[4, :3].tolist() == [0, 1, 2]


def test_a_constant_per_position_changes_nothing():
    scores, blank, ids, positions_B, tokens_B = batch(1)
    found = forced_alignment(scores, blank, ids, positions_B, tokens_B)
    constant = torch.randn(blank.shape, generator=torch.Generator().manual_seed(2))
    moved = forced_alignment(scores + constant[..., None], blank + constant, ids, positions_B, tokens_B)
    assert torch.equal(found, moved)


def test_it_stops_gradients_and_takes_half_precision():
    scores, blank, *rest = batch(3)
    found = forced_alignment(scores.requires_grad_(), blank, *rest)
    assert not found.requires_grad
    assert forced_alignment(scores.bfloat16(), blank.bfloat16(), *rest).shape == found.shape
