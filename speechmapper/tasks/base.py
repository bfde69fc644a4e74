"""The interface of a task: what it asks of an utterance, in which words, and how answers are scored.

    Fields("The dog slept.", 1.2, translation={"de": "Der Hund schlief."})      the fields of one utterance
      -> task.items(fields)         [Item("Der Hund schlief.", language="de")]
      -> task.instruction(item)      Instruction("You are a translator. ...", "Übersetze den Text ...", None)
      -> Prompter.write(...)         token ids around the speech vectors (speechmapper/prompting.py)

The wordings are data: `prompts/TASK.yaml` holds a system turn and, by language of the answer or under `any`, several
wordings of the instruction. Evaluation uses the first; training draws among them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sm_pipeline.languages import language_tag, tag_or_name
from sm_pipeline.text import NORMALIZER
from sm_store import Fields
from sm_store.errors import ConfigError, quoted
from speechmapper.measure.sums import ScoredLines
from speechmapper.prompting import Instruction
from speechmapper.tasks.scores import SCORES, Predictions
from speechmapper.tasks.store_fields import StoreFields

PROMPT_FOLDER = Path(__file__).parents[1] / "prompts"
ANY_LANGUAGE = "any"
RECOGNISED = ("spoken-squad",)  # values of `corpus` whose text a recogniser wrote: no transcript to learn
LARGEST_WORDING = 2**31  # exclusive; a wording is this number modulo how many there are


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a task asks of an utterance.

    Attributes:
        reference: the right answer, as the manifest has it; empty where it is not known.
        language: of the answer where the wording depends on it.
        values: what replaces `{name}` in the wording.
    """

    reference: str = ""
    language: str = ANY_LANGUAGE
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wordings:
    """A prompt file: the system turn, the instruction's wordings by language of the answer, and what is shown before.

    Attributes:
        examples: texts with their answers, which the LLM is shown as earlier turns; the file has them as
            `examples: [{text: the dog ran, answer: the}]`.
        held_out: wordings that training never draws: what validation asks to see whether others are followed too.
    """

    system: str
    by_language: Mapping[str, Sequence[str]]
    examples: tuple[tuple[str, str], ...] = ()
    held_out: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def lines(self, language: str) -> Sequence[str] | None:
        """The wordings of a language under any of its names (`zh-CN`, `Chinese`), else those of `any`; else None."""
        return _lines_of(self.by_language, language) or self.by_language.get(ANY_LANGUAGE)

    def held_out_lines(self, language: str) -> Sequence[str]:
        """As `lines`, of the wordings that training never draws; possibly none."""
        return _lines_of(self.held_out, language) or ()

    def every_line(self) -> list[str]:
        """All wordings, those held out too."""
        return [line for lines in (*self.by_language.values(), *self.held_out.values()) for line in lines]

    def to_json(self) -> dict[str, Any]:
        """The contents of the prompt file, as `wordings_of` reads them."""
        examples = [{"text": text, "answer": answer} for text, answer in self.examples]
        wordings = {language: list(lines) for language, lines in self.by_language.items()}
        return {"system": self.system, "wordings": wordings, **({"examples": examples} if examples else {})}

    def sha256(self) -> str:
        """Of the system turn, all wordings that training draws, and the examples where there are any."""
        contents: list[Any] = [self.system, {language: list(lines) for language, lines in self.by_language.items()}]
        contents += [self.examples] if self.examples else []
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _lines_of(by_language: Mapping[str, Sequence[str]], language: str) -> Sequence[str] | None:
    tags = {language_tag(name) or name: lines for name, lines in by_language.items()}
    return by_language.get(language) or tags.get(language_tag(language) or language)


NOT_PROMPTS = (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError)


@lru_cache
def load_wordings(path: Path) -> Wordings:
    """Read a prompt file.

    Raises:
        ConfigError: no such file, or one of another form.
    """
    try:
        return wordings_of(yaml.safe_load(path.read_text(encoding="utf-8")), path)
    except NOT_PROMPTS as error:
        raise ConfigError(f"{path}: not a prompt file (system, wordings by language): {error}") from error


def load_prompts(path: Path, tasks: Collection[str]) -> dict[str, Wordings]:
    """Read a user's prompts, `{st: {system: ..., wordings: {sv: [...]}}}`: wordings by name of the task.

    Raises:
        ConfigError: no such file, one of another form, or a task that is none of `tasks`.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = {str(name): wordings_of(entry, path) for name, entry in data.items()}
    except NOT_PROMPTS as error:
        raise ConfigError(f"{path}: not prompts by task (TASK: system, wordings by language): {error}") from error
    unknown = [name for name in found if name not in tasks]
    if unknown:
        raise ConfigError(f"{path}: unknown task {quoted(unknown[0])}; use {', '.join(tasks)}")
    return found


def wordings_of(data: Any, path: Path) -> Wordings:
    """The system turn, wordings and examples of a prompt or task file; raises ConfigError, or any of `NOT_PROMPTS`."""
    wordings, held_out = (
        {str(language): tuple(map(_text, lines)) for language, lines in found.items()}
        for found in (data["wordings"], data.get("held_out") or {})
    )
    if not wordings or not all(wordings.values()):
        raise ConfigError(f"{path}: {'a language without' if wordings else 'no'} wordings")
    examples = tuple((_text(entry["text"]), _text(entry["answer"])) for entry in data.get("examples", ()))
    return Wordings(_text(data["system"]), wordings, examples, held_out)


def _text(value: object) -> str:
    """A line of a prompt file; lists and mappings are none, whatever they would look like as text."""
    if isinstance(value, list | dict):
        raise TypeError(f"{quoted(value)} is not text")
    return str(value)


class Task(ABC):
    """One task: its items, its instruction and its score.

    Attributes:
        name: of the task on command lines; `prompts/NAME.yaml` has its wordings.
        needs: fields of the manifest without which an utterance has no item.
        placeholders: what every wording has to have in braces.
        transcript: whether the answer is made of what is said, and so is wrong where a recogniser wrote the text.
        languages: of the answers asked for, where an utterance has several; empty: all there are.
        scored_by: its score's name in `SCORES`.
        normalizer: name of the text normaliser of word error rates.
        answers_in_language: whether an answer in another language than its `language` (else the speech's) is wrong.
    """

    name: str
    needs: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    transcript: bool = False
    scored_by: str
    normalizer: str = NORMALIZER
    answers_in_language: bool = False

    _wordings: Wordings | None = None
    languages: tuple[str, ...] = ()

    @property
    def wordings(self) -> Wordings:
        """Its own wordings, else the shipped ones."""
        return self._wordings or load_wordings(PROMPT_FOLDER / f"{self.name}.yaml")

    @abstractmethod
    def items(self, fields: Fields) -> list[Item]:
        """What the task can ask of an utterance; empty where the manifest has no answer for it."""

    def wants(self, language: str) -> bool:
        """Whether answers in a language are asked for, under any of its names."""
        return not self.languages or tag_or_name(language) in map(tag_or_name, self.languages)

    def qualifying(self, fields: StoreFields, indices: np.ndarray) -> np.ndarray:
        """Which of the utterances (n,) of a store have an item: a mask (n,), bool, from whole columns."""
        mask = fields.present(self.needs, indices)
        if self.languages and "translation" in self.needs:
            mask &= fields.translated(list(filter(self.wants, fields.languages(indices))), indices)
        return mask

    def needed(self) -> str:
        """What an utterance has to have for an item, in words."""
        return " and ".join(self.needs) + (f" in {', '.join(self.languages)}" if self.languages else "")

    def score(self, predictions: Predictions) -> dict[str, Any]:
        """Metrics of predictions, each with `reference` and `output`; loads no model."""
        return self.scored(predictions).figures()

    def scored(self, predictions: Predictions) -> ScoredLines:
        """What its score counts for each prediction, from which metrics of all and of parts of them follow."""
        return SCORES[self.scored_by](predictions, self.normalizer)

    def follows(self, line: Mapping[str, Any]) -> bool:
        """Whether a prediction is the kind of answer asked for, right or wrong; language, refusals and preambles are
        looked at for every task, so here: not empty."""
        return bool(str(line["output"]).strip())

    def recorded(self) -> dict[str, Any]:
        """What a run that is trained on the task keeps of it, as JSON values."""
        return self.wordings.to_json()

    def as_trained(self, made: Mapping[str, Any]) -> Task:
        """The task in the wordings that a run was trained with.

        Args:
            made: the run's `trained_for`. Where it has none of this task, or the task has wordings of its own, nothing
                is changed.

        Raises:
            ConfigError: the record is not one of wordings.
        """
        tasks = made.get("tasks") or {}
        if self._wordings is not None or self.name not in tasks:
            return self
        try:
            return self.with_choices(wordings_of(tasks[self.name], Path("config.json")), self.languages)
        except NOT_PROMPTS as error:
            raise ConfigError(f"the run's config.json: trained_for.tasks.{self.name}: no wordings ({error})") from error

    def fingerprint(self) -> str:
        """What decides what is asked: of its wordings."""
        return self.wordings.sha256()

    def with_choices(self, wordings: Wordings | None, languages: Sequence[str]) -> Task:
        """The same with other wordings, where they are given, and with answers in these languages alone.

        Raises:
            ConfigError: a wording without a placeholder that the task needs.
        """
        for line in wordings.every_line() if wordings else ():
            for name in self.placeholders:
                if f"{{{name}}}" not in line:
                    raise ConfigError(
                        f"tuning.prompts: {self.name}: {quoted(line)} has no {{{name}}}, so that the LLM would not be "
                        f"told the {name}"
                    )
        made = copy.copy(self)
        made._wordings, made.languages = wordings or self._wordings, tuple(languages)
        return made

    def with_normalizer(self, normalizer: str) -> Task:
        """The task with this text normaliser of its scores, and of its answers where they are transcripts."""
        made = copy.copy(self)
        made.normalizer = normalizer
        return made

    def answer(self, item: Item) -> str:
        """The text the LLM learns to give."""
        return item.reference

    def cleaned(self, output: str) -> str:
        """What the LLM wrote, without what belongs to the prompt; here all of it."""
        return output

    def instruction(self, item: Item, wording: int = 0, learn: bool = False) -> Instruction:
        """What the LLM is told about the speech.

        Args:
            wording: any number of at least 0; 0 is the wording evaluation uses.
            learn: whether the answer is part of it.

        Raises:
            ConfigError: no wording for the item's language.
        """
        found = self.wordings
        lines = found.lines(item.language)
        if lines is None:
            raise ConfigError(
                f"no {self.name} prompt for {item.language!r}; prompts/{self.name}.yaml has "
                f"{', '.join(found.by_language)}"
            )
        text = _filled(lines[wording % len(lines)], item)
        return Instruction(found.system, text, self.answer(item) if learn else None, found.examples)

    def unseen_instructions(self, item: Item) -> list[Instruction]:
        """The instructions by the wordings that training never draws; empty where there are none."""
        found = self.wordings
        lines = found.held_out_lines(item.language)
        return [Instruction(found.system, _filled(text, item), None, found.examples) for text in lines]


def _filled(wording: str, item: Item) -> str:
    for name, value in item.values.items():
        wording = wording.replace(f"{{{name}}}", value)
    return wording


@dataclass(frozen=True, slots=True)
class Mixture:
    """Tasks with rates.

    Attributes:
        rates: task and rate, relative to each other.
        fallback: asked of an utterance that none of the tasks has an item for.
    """

    rates: tuple[tuple[Task, float], ...]
    fallback: Task

    def require_prompts(self, languages: Collection[str]) -> None:
        """Check that there are prompts for all translations that will be asked for.

        Args:
            languages: of the translations of the utterances to train on.

        Raises:
            ConfigError: a language without a prompt, or one asked for that no utterance has.
        """
        for task, _ in (entry for entry in self.rates if entry[1] > 0 and "translation" in entry[0].needs):
            known = set(map(tag_or_name, languages))
            absent = sorted(name for name in task.languages if tag_or_name(name) not in known)
            if absent:
                there = ", ".join(sorted(languages)) or "none"
                raise ConfigError(
                    f"tuning.languages {', '.join(absent)}: no utterance has such a translation ({there})"
                )
            missing = sorted(name for name in languages if task.wants(name) and task.wordings.lines(name) is None)
            if missing:
                there = ", ".join(task.wordings.by_language)
                raise ConfigError(
                    f"no {task.name} prompt for {', '.join(missing)} (there are: {there}); choose with "
                    "tuning.languages, or give your own with tuning.prompts"
                )

    def recorded(self) -> dict[str, Any]:
        """What a run keeps of the tasks that it is trained on, by their names."""
        used = [task for task, rate in self.rates if rate > 0]
        return {task.name: task.recorded() for task in (*used, self.fallback)}

    def prompts_sha256(self) -> dict[str, str]:
        """Fingerprint of each task's wordings: they decide what is learned."""
        used = [task for task, rate in self.rates if rate > 0]
        return {task.name: task.fingerprint() for task in used}

    def draw(self, fields: Fields, rng: np.random.Generator) -> Instruction:
        """A task among those the utterance has items for, then a wording and an item; with the answer to learn.

        A text that a recogniser wrote is learned as a transcript only where there is no other task for it.
        """
        offered = [(task, rate) for task, rate in self.rates if rate > 0 and task.items(fields)]
        if fields.corpus in RECOGNISED:
            offered = [each for each in offered if not each[0].transcript] or offered
        point = rng.random() * sum(rate for _, rate in offered)
        chosen = self.fallback
        for task, rate in offered:
            chosen = task
            if point < rate:
                break
            point -= rate
        wording = int(rng.integers(LARGEST_WORDING))
        items = chosen.items(fields)
        item = items[int(rng.integers(len(items)))] if len(items) > 1 else items[0]
        return chosen.instruction(item, wording, learn=True)
