"""Pieces of audio to text: in batches, several as one, and as it is written."""

from __future__ import annotations

import numpy as np
import pytest

from speechmapper import SpeechMapper
from speechmapper.tasks import ASR, TASKS, Item
from tests import speech

ONE, OTHER = speech.spoken("the old dog").copy(), speech.spoken("a bird sang by the river").copy()
SHORT = np.zeros(500, np.float32)


@pytest.fixture(scope="module")
def reader(chain):
    return SpeechMapper.from_pretrained(chain / "stage2", device="cpu").reader


def test_each_piece_of_a_batch_is_read_by_its_own_instruction(reader):
    asked = [ASR.instruction(Item()), TASKS["st"].instruction(Item(language="de"))]
    [[one], [other]] = [reader.read(ASR, [wave], [each]) for wave, each in zip((ONE, OTHER), asked, strict=True)]
    assert reader.read(ASR, [ONE, SHORT, OTHER], [asked[0], asked[0], asked[1]]) == [one, None, other]
    assert one.text != other.text


def test_pieces_that_are_all_too_short(reader):
    assert reader.read(ASR, [SHORT], [ASR.instruction(Item())]) == [None]


def test_one_piece_as_a_whole_is_the_piece(reader):
    asked = ASR.instruction(Item())
    assert reader.read_whole(ASR, [ONE], asked, "a").text == reader.read(ASR, [ONE], [asked])[0].text


def test_several_pieces_as_a_whole_are_in_the_order_given(reader):
    given = reader._given([ONE, OTHER])
    alone = [reader._given([wave]) for wave in (ONE, OTHER)]
    assert given.shape[1] == sum(each.shape[1] for each in alone)
    np.testing.assert_allclose(given[:, : alone[0].shape[1]], alone[0], atol=2e-2)
    np.testing.assert_allclose(given[:, alone[0].shape[1] :], alone[1], atol=2e-2)


def test_a_piece_without_vectors_is_left_out_of_the_whole(reader):
    assert reader._given([ONE, SHORT]).shape == reader._given([ONE]).shape
    assert list(reader.stream(ASR, [SHORT], ASR.instruction(Item()), "a")) == []
