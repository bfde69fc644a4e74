"""Text of the tokens that a head reads."""

from __future__ import annotations

import pytest

from speechmapper.readout.nearest import NearestToken
from tests.speechmapper.tiny import tokenizer


@pytest.fixture
def nearest() -> NearestToken:
    return NearestToken(tokenizer(), pad_id=0)


def test_pads_are_dropped_and_nothing_is_collapsed(nearest):
    ids = tokenizer()("the the dog")["input_ids"]
    assert nearest.texts([[0, *ids, 0, 0], [0, 0], [], [ids[0], 0, ids[2]]]) == ["the the dog", "", "", "the dog"]


def test_special_tokens_are_not_written(nearest):
    dog = tokenizer()("dog")["input_ids"]
    assert nearest.texts([[1, *dog, 2, 5]]) == ["dog"]


def test_a_text_is_as_long_as_what_stands_before_its_first_pad(nearest):
    assert nearest.lengths([[7, 8, 0, 9], [0, 0], [7, 8]]) == [2, 0, 2]
