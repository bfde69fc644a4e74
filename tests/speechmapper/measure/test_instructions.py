"""Parts of what it means to follow an instruction."""

from __future__ import annotations

import re

import pytest

from speechmapper.measure.instructions import copies_source, is_copy, is_only, is_short


def test_copies():
    assert is_copy("The dog  slept", "the dog slept.")
    assert not is_copy("Der Hund schlief", "the dog slept")
    assert not is_copy("", "")
    line = {"output": "The dog slept.", "reference": "Der Hund schlief."}
    assert not copies_source(line)  # nothing says what was said
    assert copies_source({**line, "source": "the dog slept"})
    assert not copies_source({"output": "Anna Berg", "reference": "Anna Berg", "source": "Anna Berg"})


def test_short_answers():
    assert is_short("it was the dog that slept by the river", "the dog")
    assert not is_short("it was the dog that slept by the river all night", "dog")
    assert is_short(" ".join(["word"] * 15), " ".join(["word"] * 5))


@pytest.mark.parametrize(
    ("output", "match", "only"),
    [
        ("The", r"^\w+", True),
        (' "The." ', r"^\w+", True),
        ("The first word is the", r"^\w+", False),
        ("42", r"(\d+)$", True),
        ("the answer is 42", r"(\d+)$", False),
        ("", r"\w+", False),
    ],
)
def test_nothing_but_the_match(output, match, only):
    assert is_only(output, re.compile(match)) is only
