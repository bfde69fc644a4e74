"""Spoken question answering: a question about the speech, then "Your answer:" (paper); exact match and token F1.

Fields("The dog slept.", 1.2, question="Who slept?", answer="the dog")
  -> [Item("the dog", values={"question": "Who slept?"})]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sm_store import Fields
from speechmapper.measure.instructions import copies_source, is_short
from speechmapper.tasks.base import Item, Task


class SpokenQuestionAnswering(Task):
    """Answer a question about the speech."""

    name: str = "sqa"
    scored_by: str = "exact_match"
    needs: tuple[str, ...] = ("question", "answer")
    placeholders: tuple[str, ...] = ("question",)

    def items(self, fields: Fields) -> list[Item]:
        """The question, where it has an answer."""
        if not fields.question or not fields.answer:
            return []
        return [Item(fields.answer, values={"question": fields.question})]

    def follows(self, line: Mapping[str, Any]) -> bool:
        """Not empty, short (ten words, or three times the reference's), and no transcript of the speech."""
        short = is_short(str(line["output"]), str(line["reference"]))
        return super().follows(line) and short and not copies_source(line)
