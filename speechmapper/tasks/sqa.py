"""Spoken question answering: a question about the speech, then "Your answer:" (paper); exact match and token F1.

Fields("The dog slept.", 1.2, question="Who slept?", answer="the dog")
  -> [Item("the dog", values={"question": "Who slept?"})]
"""

from __future__ import annotations

from sm_store import Fields
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
