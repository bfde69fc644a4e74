"""Text as it is written: the deltas joined are the whole text, without half characters."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechmapper.model.streaming import TextDeltas, TokenQueue
from speechmapper.tasks import ASR

TEXTS = [
    "the dog ran home.",
    "你好，世界。再见",
    "well 👩‍👩‍👧‍👦 done 🇩🇪!",
    '"the dog ran',
    'the dog ran"',
    '"the dog ran"',
    'he said "go" and "stay',
    "  spaces  \n around \n",
    '"',
    "",
    "naïve Ünïcödé",
]


def bytes_as_text(ids: list[int]) -> str:
    """A byte-level tokenizer: incomplete characters are written as the replacement character."""
    return bytes(ids).decode("utf-8", errors="replace")


def deltas_of(text: str, clean) -> tuple[TextDeltas, list[str]]:
    deltas = TextDeltas(bytes_as_text, clean)
    given = [deltas.push([byte]) for byte in text.encode()]
    return deltas, [*given, deltas.end()]


@pytest.mark.parametrize("text", TEXTS)
def test_deltas_joined_are_the_cleaned_text(text):
    deltas, given = deltas_of(text, ASR.cleaned)
    assert "".join(given) == ASR.cleaned(text.strip()) == deltas.given
    assert all("\ufffd" not in delta for delta in given)


@given(st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from('" x'), max_size=30))
def test_whatever_the_text_is(text):
    for clean in (ASR.cleaned, lambda output: output):
        assert "".join(deltas_of(text, clean)[1]) == clean(text.strip())


def test_text_is_given_as_it_comes():
    _, given = deltas_of("the dog ran", ASR.cleaned)
    assert given[:3] == ["t", "h", "e"] and given[3] == "" and given[4] == " d"


def test_tokens_come_from_a_thread_of_their_own():
    def generate(tokens: TokenQueue) -> None:
        assert threading.current_thread() is not threading.main_thread()
        for token in range(3):
            tokens.put(torch.tensor([token]))
        tokens.end()

    assert list(TokenQueue().read(generate)) == [[0], [1], [2]]


def test_what_goes_wrong_is_raised_where_it_is_read():
    def generate(tokens: TokenQueue) -> None:
        tokens.put(torch.tensor([[5]]))
        raise ValueError("no")

    reading = TokenQueue().read(generate)
    assert next(reading) == [5]
    with pytest.raises(ValueError, match="no"):
        next(reading)


def test_a_reader_that_stops_ends_the_thread():
    written = []

    def generate(tokens: TokenQueue) -> None:
        for token in range(10**9):
            tokens.put(torch.tensor([token]))
            written.append(token)

    reading = TokenQueue().read(generate)
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "generate"]
    assert len(written) < 10**9
