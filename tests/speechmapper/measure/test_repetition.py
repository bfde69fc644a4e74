"""Repetitions, compressibility and length ratios by hand."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from speechmapper.measure.repetition import Repetition, compression_ratio, repeats


@pytest.mark.parametrize(
    ("output", "reference", "found"),
    [
        ("the dog ran to the the dog ran to the", "the dog ran to the", True),
        ("the dog ran to the", "", False),
        ("the dog ran to a the dog ran to the", "", False),  # four words alone are twice there
        ("he said he said he said he said he said he said", "", True),
        ("no no no no no no", "no no no no no no", False),  # it was said so
        ("no no no no no no no", "no no no no no no", True),
        ("The dog ran to THE the Dog ran to the", "", True),
        ("这只狗睡了一整天觉这只狗睡了一整天觉这只狗睡了一整天觉", "这只狗睡了一整天觉", True),
        ("世界卫生组织和世界卫生组织", "", False),  # six characters are a name
        ("", "", False),
    ],
)
def test_repeated_n_grams(output, reference, found):
    assert repeats(output, reference) is found


def test_the_compression_ratio_is_whispers():
    text = "ha " * 40
    assert compression_ratio(text) == len(text.encode()) / len(zlib.compress(text.encode())) > 2.4
    assert compression_ratio("The dog slept by the river all night.") < 2.4
    assert compression_ratio("") == 0
    assert compression_ratio("\ud800") > 0  # half a surrogate pair is not encodable


def test_figures_of_all_and_of_parts():
    outputs = ["ha " * 40, "a dog", "", "dog"]
    found = Repetition.of(["ha", "dogs!", "dog", ""], outputs, ["length", "end", None, "end"])
    figures = found.figures(np.arange(4))
    assert figures["repetition_rate"] == figures["compression_rate"] == 0.25
    assert figures["stopped_by_length_rate"] == pytest.approx(1 / 3)
    assert figures["length_ratio"]["p50"] == 1.0  # of 60, 1 and 0
    assert figures["length_ratio"].keys() == {"p5", "p50", "p95"}
    assert found.figures(np.array([3])) == {
        "repetition_rate": 0.0,
        "compression_rate": 0.0,
        "stopped_by_length_rate": 0.0,
    }
    assert "stopped_by_length_rate" not in found.figures(np.array([2]))
    assert found.figures(np.array([], np.int64)) == {}
