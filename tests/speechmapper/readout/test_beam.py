"""Beam search compared with the sum over all paths, alone and with hotwords."""

from __future__ import annotations

import math

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.heads.rows import TopTokens
from speechmapper.readout.beam import BeamSearch, beam_search, log_add
from speechmapper.readout.hotwords import HotwordBonus, Hotwords
from tests.reference.ctc_decoding import covered, text_probabilities
from tests.speechmapper.readout.pieces import Pieces

EVERYTHING = 10_000  # more prefixes than there are


def top_of(probabilities: torch.Tensor, count: int | None = None) -> TopTokens:
    """The last column is the blank."""
    logs = probabilities.double().log()
    kept, ids = logs[:, :-1].topk(count or logs.shape[1] - 1, dim=1)
    return TopTokens(ids, kept, logs[:, -1])


def drawn(seed: int, positions: int, tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(positions, tokens + 1, generator=generator, dtype=torch.float64)).softmax(dim=1)


@pytest.mark.parametrize(("positions", "tokens"), [(1, 4), (4, 3), (6, 2), (7, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_with_room_for_every_text_the_probabilities_are_those_of_all_paths(seed, positions, tokens):
    probabilities = drawn(seed, positions, tokens)
    expected = text_probabilities(probabilities.tolist())
    found = beam_search(top_of(probabilities), EVERYTHING)
    assert {each.tokens for each in found} == expected.keys()
    for each in found:
        assert math.exp(each.log_prob) == pytest.approx(expected[each.tokens], rel=1e-9)
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True) and sum(map(math.exp, scores)) == pytest.approx(1)


def test_the_most_probable_text_is_not_that_of_the_most_probable_path():
    """The example of the module's docstring."""
    top = top_of(torch.tensor([[0.4, 0.6], [0.4, 0.6]]))
    best, second = beam_search(top, 2)
    assert (best.tokens, second.tokens) == ((0,), ())
    assert (math.exp(best.log_prob), math.exp(second.log_prob)) == pytest.approx((0.64, 0.36))


def test_a_repeated_token_needs_a_blank_between():
    certain = torch.tensor([[0.98, 0.01, 0.01]])
    blank = torch.tensor([[0.01, 0.01, 0.98]])
    assert beam_search(top_of(torch.cat([certain, certain])), 4)[0].tokens == (0,)
    assert beam_search(top_of(torch.cat([certain, blank, certain])), 4)[0].tokens == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_beam_keeps_a_lower_bound_of_the_probability(seed):
    probabilities = drawn(seed, 6, 3)
    expected = text_probabilities(probabilities.tolist())
    found = beam_search(top_of(probabilities), 3)
    assert len(found) == 3
    assert all(math.exp(each.log_prob) <= expected[each.tokens] * (1 + 1e-9) for each in found)


def test_only_the_tokens_given_are_tried():
    probabilities = drawn(1, 5, 3)
    found = beam_search(top_of(probabilities, 1), EVERYTHING)
    most_probable = probabilities[:, :-1].argmax(dim=1).tolist()
    assert {token for each in found for token in each.tokens} <= set(most_probable)


def test_no_positions_say_nothing():
    (only,) = beam_search(top_of(torch.zeros(0, 4)), 5)
    assert (only.tokens, only.score) == ((), 0.0)


PIECES = Pieces("a", " a", "b", " b", "c")


@pytest.mark.parametrize(
    ("phrases", "first", "later"),
    [
        (["ab"], [("a", "b")], [(" a", "b")]),
        (["b"], [("b",)], [(" b",)]),
        (["a b", "bc"], [("a", " b"), ("b", "c")], [(" a", " b"), (" b", "c")]),
        (["a", "a a", "aa b"], [("a",), ("a", " a"), ("a", "a", " b")], [(" a",), (" a", " a"), (" a", "a", " b")]),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_hotwords_add_what_the_best_placing_of_them_covers(seed, phrases, first, later):
    bonus = HotwordBonus(phrases, PIECES, 0.7)
    found = beam_search(top_of(drawn(seed, 4, 5)), EVERYTHING, bonus)
    assert len(found) == len(text_probabilities(drawn(seed, 4, 5).tolist()))
    placed = [[PIECES.ids(*pieces) for pieces in ways] for ways in (first, later)]
    continuing = PIECES.ids("a", "b", "c")
    for each in found:
        assert each.bonus == pytest.approx(0.7 * covered(each.tokens, *placed, lambda token: token in continuing))
    assert any(each.bonus for each in found)
    assert found == sorted(found, key=lambda each: -each.score)


def test_a_hotword_is_kept_in_a_narrow_beam_from_its_first_token_on():
    """Its first token is the third choice: without a bonus before its end, no prefix with it would stay among two."""
    #                      a    " a"    b   " b"    c   blank
    top = top_of(
        torch.tensor([[0.06, 0.005, 0.50, 0.42, 0.005, 0.01], [0.005, 0.005, 0.45, 0.45, 0.06, 0.03]]),
    )
    hotword = PIECES.ids("a", "c")
    assert hotword not in {each.tokens for each in beam_search(top, 2)}
    best = beam_search(top, 2, HotwordBonus(["ac"], PIECES, 4.0))[0]
    assert (best.tokens, best.bonus) == (hotword, 8.0)


def test_log_add_takes_what_has_no_probability():
    assert log_add(-math.inf, -math.inf) == -math.inf
    assert log_add(-math.inf, -2.0) == log_add(-2.0, -math.inf) == -2.0
    assert log_add(math.log(0.25), math.log(0.5)) == pytest.approx(math.log(0.75))


def test_what_decides_the_texts_is_recorded():
    assert BeamSearch(4).identity() == {"beam": 4}
    search = BeamSearch(hotwords=Hotwords(["ravi", "", "winnipeg"], sha256="0" * 64))
    assert search.identity() == {"beam": 16, "hotwords": {"sha256": "0" * 64, "count": 2, "weight": 4.0}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "--beam 0: give 1 or more"),
        *(({"weight": weight}, "--hotword-weight .*above 0") for weight in (0.0, -1.0, math.inf, math.nan)),
    ],
)
def test_settings_without_a_meaning(settings, message):
    with pytest.raises(ConfigError, match=message):
        BeamSearch(**settings)
