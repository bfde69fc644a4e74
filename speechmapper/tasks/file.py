"""A user's own task: a YAML file that says what is asked, what the right answer is, and how answers are scored.

    # first-word.yaml
    system: The user quotes a text. You answer with its first word.
    wordings: {any: ["First word:"]}              by language of the answer where it is a translation
    held_out: {any: ["Which word comes first?"]}  optional: wordings that are never trained, for validation
    examples: [{text: the dog ran, answer: the}]  optional: shown to the LLM as earlier turns
    answer: "{text}"                              fields of the manifest in braces, between any words
    match: '^\\w+'                                 optional: the part of the answer that counts, a regular expression
    score: exact_match                            or wer, bleu

    read_task(Path("first-word.yaml")).items(Fields("The dog ran.", 1.2))  ->  [Item("The")]

Wordings may have fields in braces too (`"{question} Your answer:"`). An utterance that lacks a field, or whose answer
has no match, has no item. The definition goes with whatever is made by it (runs, predictions), so the file is not
needed again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import yaml

from sm_store import Fields
from sm_store.errors import ConfigError, quoted
from sm_store.fields import FIELDS
from speechmapper.measure.instructions import is_only
from speechmapper.tasks.base import ANY_LANGUAGE, NOT_PROMPTS, Item, Task, wordings_of
from speechmapper.tasks.scores import SCORES
from speechmapper.tasks.store_fields import StoreFields

KEYS = ("name", "system", "wordings", "held_out", "examples", "answer", "match", "score")
TRANSLATION = "translation"
SUFFIXES = (".yaml", ".yml")


class FileTask(Task):
    """A task by its definition.

    Args:
        definition: the contents of the file (JSON values), with its `name`.
        where: the file, for errors.

    Raises:
        ConfigError: a key that is missing or unknown, a field that no manifest has, a bad expression, no such score.
    """

    def __init__(self, definition: Mapping[str, Any], where: str) -> None:
        try:
            unknown = [str(key) for key in definition if key not in KEYS]
            self._wordings = wordings_of(definition, Path(where))
            self.name, self._answer = str(definition["name"]), str(definition["answer"])
            self.scored_by, match = str(definition["score"]), definition.get("match")
            self._match = None if match is None else re.compile(str(match), re.IGNORECASE)
        except KeyError as error:
            raise ConfigError(f"{where}: {error} is missing; a task has {', '.join(KEYS)}") from error
        except (*NOT_PROMPTS, re.error) as error:
            raise ConfigError(f"{where}: not a task ({', '.join(KEYS)}): {error}") from error
        if unknown:
            raise ConfigError(f"{where}: unknown key {quoted(unknown[0])}; a task has {', '.join(KEYS)}")
        if self.scored_by not in SCORES:
            raise ConfigError(f"{where}: score {quoted(self.scored_by)}: use {', '.join(SCORES)}")
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ConfigError(f"{where}: name {quoted(self.name)}: use letters, digits, - and _")
        self.definition = dict(definition)
        in_wordings, in_answer = fields_in(self._wordings.every_line(), where), fields_in([self._answer], where)
        if not in_answer:
            raise ConfigError(f"{where}: answer {quoted(self._answer)}: name a field of the manifest, such as {{text}}")
        if TRANSLATION in in_wordings:
            raise ConfigError(f"{where}: wordings: {{translation}} is several texts; it can only be the answer")
        self._values = in_wordings
        self._fields = in_answer
        self.transcript = "text" in in_answer
        self.answers_in_language = TRANSLATION in in_answer
        self.needs = tuple(name for name in (*in_answer, *in_wordings) if FIELDS[name].nullable)

    def items(self, fields: Fields) -> list[Item]:
        """The answer, one per language where it is a translation; none where a field or the match is absent."""
        if any(not getattr(fields, name) for name in self.needs):
            return []
        texts = {ANY_LANGUAGE: ""}
        if TRANSLATION in self._fields:
            found = sorted((fields.translation or {}).items())
            texts = {language: text for language, text in found if self.wants(language)}
        values = {name: str(getattr(fields, name)) for name in self._values}
        answers = {language: self._answer_of(fields, text) for language, text in texts.items()}
        return [Item(answer, language, values) for language, answer in answers.items() if answer]

    def qualifying(self, fields: StoreFields, indices: np.ndarray) -> np.ndarray:
        """As of every task; where there is a `match`, by the items themselves."""
        mask = super().qualifying(fields, indices)
        if self._match is not None:
            names = dict.fromkeys((*self._fields, *self._values))
            mask[mask] = [bool(self.items(each)) for each in fields.only(tuple(names), indices[mask])]
        return mask

    def needed(self) -> str:
        """As of every task, and what has to match."""
        match = "" if self._match is None else f"an answer with a match of {quoted(self._match.pattern)}"
        return " and ".join(part for part in (super().needed(), match) if part)

    def follows(self, line: Mapping[str, Any]) -> bool:
        """Not empty, and where there is a `match`, nothing but what it finds."""
        return super().follows(line) and (self._match is None or is_only(str(line["output"]), self._match))

    def recorded(self) -> dict[str, Any]:
        """The definition: a run, and predictions, need the file no more."""
        return self.definition

    def fingerprint(self) -> str:
        """SHA-256 of the definition, without the wordings that are not trained."""
        trained = {key: value for key, value in self.definition.items() if key != "held_out"}
        return hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()

    def _answer_of(self, fields: Fields, translation: str) -> str | None:
        answer = self._answer
        for name in self._fields:
            answer = answer.replace(f"{{{name}}}", translation if name == TRANSLATION else str(getattr(fields, name)))
        if self._match is None:
            return answer
        found = self._match.search(answer)
        return found[found.re.groups and 1] if found else None


def read_task(path: Path) -> FileTask:
    """Read a task's file; its name is the file's where it gives none.

    Raises:
        ConfigError: no such file, or not a task.
    """
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
        json.dumps(definition)
    except NOT_PROMPTS as error:
        raise ConfigError(f"{path}: not a task ({', '.join(KEYS)}): {error}") from error
    if not isinstance(definition, dict):
        raise ConfigError(f"{path}: not a task: give {', '.join(KEYS)}")
    return FileTask({"name": path.stem, **definition}, str(path))


def is_task_file(text: str) -> bool:
    """Whether a `--task` names a file."""
    return text.endswith(SUFFIXES)


def fields_in(lines: Sequence[str], where: str) -> tuple[str, ...]:
    """The fields in braces in some lines, each once.

    Raises:
        ConfigError: braces that name no field of the manifest.
    """
    found: dict[str, None] = {}
    for line in lines:
        try:
            names = [name for _, name, _, _ in Formatter().parse(line) if name is not None]
        except ValueError as error:
            raise ConfigError(f"{where}: {quoted(line)}: {error}") from error
        for name in names:
            if name not in FIELDS:
                raise ConfigError(f"{where}: {{{name}}}: no field of a manifest; there are {', '.join(FIELDS)}")
            found[name] = None
    return tuple(found)
