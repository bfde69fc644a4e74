"""Spoken question answering: a question about the speech, then "Your answer:" (paper); exact match and token F1.

Fields("The dog slept.", 1.2, question="Who slept?", answer="the dog")
  -> [Item("the dog", values={"question": "Who slept?"})]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sm_store import Fields
from speechmapper.measure.text import answer_scores
from speechmapper.tasks.base import Item, Task


class SpokenQuestionAnswering(Task):
    """Answer a question about the speech."""

    name: str = "sqa"
    needs: tuple[str, ...] = ("question", "answer")
    placeholders: tuple[str, ...] = ("question",)

    def items(self, fields: Fields) -> list[Item]:
        """The question, where it has an answer."""
        if not fields.question or not fields.answer:
            return []
        return [Item(fields.answer, values={"question": fields.question})]

    def score(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`exact_match`, `f1`, `utterances`."""
        return answer_scores([line["reference"] for line in predictions], [line["output"] for line in predictions])
