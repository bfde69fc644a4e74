"""An LLM's answer as it is written, in pieces of text that joined are the whole answer.

    token ids    [ġ, ¸, Ń, å, ...]      one at a time, from `generate` in a thread of its own
    deltas       "你", "好", ...          never half a character, never a character that the final text lacks

What a task removes from an answer (white space, a quotation mark of the prompt) is known only at its end. So the text
is given as far as no continuation changes it: up to where the cleaned texts of some typical continuations agree.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

CONTINUATIONS = ("", "x", '"', 'x"', '"x', ' "x"')  # letters, spaces and the quotation marks that a task may remove
INCOMPLETE = "\ufffd"  # what a tokenizer writes for bytes that are no character yet


class TextDeltas:
    """Text from token ids that come one by one.

    Args:
        decode: the text of token ids, without special tokens.
        clean: the task's `cleaned`.

    Attributes:
        given: the text that was given so far.
    """

    def __init__(self, decode: Callable[[list[int]], str], clean: Callable[[str], str]) -> None:
        self._decode, self._clean = decode, clean
        self.ids: list[int] = []
        self.given = ""

    def push(self, ids: Sequence[int]) -> str:
        """The text that some more ids make certain; possibly none."""
        self.ids += ids
        written = self._decode(self.ids).rstrip(INCOMPLETE)
        cleaned = [self._clean((written + more).strip()) for more in CONTINUATIONS]
        first, last = min(cleaned), max(cleaned)  # what these two begin with, all begin with
        same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        return self._up_to("".join(character for character, _ in same))

    def end(self) -> str:
        """The rest of the text."""
        return self._up_to(self._clean(self._decode(self.ids).strip()))

    def _up_to(self, text: str) -> str:
        if not text.startswith(self.given):  # a tokenizer that rewrites what it wrote
            return ""
        delta = text[len(self.given) :]
        self.given += delta
        return delta


class _Abandoned(Exception):
    """Nobody reads on."""


class TokenQueue:
    """A Hugging Face streamer that hands token ids to another thread, without the prompt's."""

    def __init__(self) -> None:
        self._queue: queue.Queue[list[int] | BaseException | None] = queue.Queue()
        self._abandoned = False

    def put(self, value: Any) -> None:
        """See transformers' `BaseStreamer`; called by `generate` with ids of one row."""
        if self._abandoned:
            raise _Abandoned
        self._queue.put(value.flatten().tolist())

    def end(self) -> None:
        """See transformers' `BaseStreamer`."""

    def read(self, generate: Callable[[TokenQueue], object]) -> Iterator[list[int]]:
        """Run `generate` in a thread and give the ids as they come; raises what it raised.

        A reader that stops early ends it at its next token.
        """

        def work() -> None:
            try:
                generate(self)
                self._queue.put(None)
            except _Abandoned:
                self._queue.put(None)
            except BaseException as error:  # raised again where it is read
                self._queue.put(error)

        thread = threading.Thread(target=work, name="generate", daemon=True)
        thread.start()
        try:
            while (ids := self._queue.get()) is not None:
                if isinstance(ids, BaseException):
                    raise ids
                yield ids
        finally:
            self._abandoned = True
            thread.join()
