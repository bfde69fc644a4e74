"""What an evaluation asks about an utterance: each item of the task, in the wording of training or in several.

    questions(task, item, None)       [Question(item)]                             the wording that evaluation uses
    questions(task, item, ALL)        every wording of the task, then those that training never draws

With several wordings the spread of a metric over them shows how much it depends on the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sm_store.errors import ConfigError, quoted
from speechmapper.prompting import Instruction
from speechmapper.tasks import Item, Task

ALL = 0  # wordings: as many as there are


@dataclass(frozen=True, slots=True)
class Question:
    """An item in one wording.

    Attributes:
        wording: its number, for the line; None where only one is asked.
        held_out: its number among the wordings that training never draws; None: it is another.
    """

    item: Item
    wording: int | None = None
    held_out: int | None = None

    def instruction(self, task: Task) -> Instruction:
        """What the LLM is told."""
        if self.held_out is not None:
            return task.unseen_instructions(self.item)[self.held_out]
        return task.instruction(self.item, self.wording or 0)

    def labels(self) -> dict[str, Any]:
        """What the line says of the wording; nothing where only one is asked."""
        found: dict[str, Any] = {} if self.wording is None else {"wording": self.wording}
        return {**found, "held_out": True} if self.held_out is not None else found


def questions(task: Task, item: Item, wordings: int | None) -> list[Question]:
    """An item in each of the wordings asked for.

    Args:
        wordings: how many; `ALL` of them; None: the first, unnumbered.
    """
    if wordings is None:
        return [Question(item)]
    seen = len(task.wordings.lines(item.language) or ())
    unseen = len(task.wordings.held_out_lines(item.language))
    every = [Question(item, number) for number in range(seen)]
    every += [Question(item, seen + number, number) for number in range(unseen)]
    return every if wordings == ALL else every[:wordings]


def with_held_out(task: Task, shipped: Task) -> Task:
    """A task in the wordings of a run, which records those that it was trained with alone, with those held out."""
    if task.wordings.held_out or not shipped.wordings.held_out:
        return task
    trained = {line for lines in task.wordings.by_language.values() for line in lines}
    held_out = {
        language: kept
        for language, lines in shipped.wordings.held_out.items()
        if (kept := [line for line in lines if line not in trained])
    }
    return task.with_choices(replace(task.wordings, held_out=held_out), task.languages)


def parse_wordings(text: str | None) -> int | None:
    """`--wordings`: `all`, or how many. Raises ConfigError: neither."""
    if text is None:
        return None
    if text == "all":
        return ALL
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(f"--wordings {quoted(text)}: give a number of at least 1, or all")
