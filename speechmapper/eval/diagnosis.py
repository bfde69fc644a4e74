"""What goes wrong in the outputs of any task: language, repetition, refusals, instructions not followed, entities.

    measures = diagnose(task, predictions, EntitySource())
    [measure.figures(rows) for measure in measures]
      -> target_language_rate, repetition_rate, refusal_rate, instruction_following_rate, entity_recall, ...

Each measure looks at every prediction once; figures of parts of the corpus follow from that. A figure that does not
apply is absent. docs/evaluation.md defines all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sm_store import Store
from speechmapper.measure.entities import EntityMatches, mentions
from speechmapper.measure.entity_files import entities_of
from speechmapper.measure.language import LanguageRates
from speechmapper.measure.refusals import Refusals
from speechmapper.measure.repetition import Repetition
from speechmapper.measure.sums import present, share_of
from speechmapper.measure.text import normaliser
from speechmapper.tasks import Task
from speechmapper.tasks.scores import answer_language

Predictions = Sequence[Mapping[str, Any]]
TRAIN_SPLIT = "train"
FIELD, HEURISTIC = "manifest", "capitalised words"  # values of `entity_source`, besides a file's name


class Measure(Protocol):
    """What was found in each prediction."""

    def figures(self, rows: np.ndarray) -> dict[str, Any]:
        """The figures of these predictions."""


@dataclass(frozen=True, slots=True)
class EntitySource:
    """Where entities are from, and what training has seen of them.

    Attributes:
        file: of tagged words; None: the predictions' `entities`, else the heuristic.
        train_store: the feature store that the run was trained on; None: no buckets.
    """

    file: Path | None = None
    train_store: str | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """Which of N predictions are the kind of answer asked for."""

    follows_N: np.ndarray

    def figures(self, rows: np.ndarray) -> dict[str, Any]:
        """`instruction_following_rate`."""
        return present({"instruction_following_rate": share_of(self.follows_N, rows)})


def diagnose(task: Task, predictions: Predictions, entities: EntitySource) -> list[Measure]:
    """Look at every prediction.

    Raises:
        ConfigError: a file of entities that cannot be used. StoreError: no usable store of the training.
    """
    references, outputs = ([str(line[name]) for line in predictions] for name in ("reference", "output"))
    languages = LanguageRates.of(
        references,
        outputs,
        [answer_language(line) if task.answers_in_language else line.get("language") for line in predictions],
        {str(line["lang"]) for line in predictions if line.get("lang") is not None},
    )
    refusals = Refusals.of(references, outputs)
    follows = np.array([task.follows(line) for line in predictions], bool) & ~refusals.refuses_N & ~refusals.preamble_N
    if languages is not None and task.answers_in_language:
        follows &= ~languages.off_target()
    measures: list[Measure | None] = [
        languages,
        Repetition.of(references, outputs, [line.get("stop") for line in predictions]),
        refusals,
        Following(follows),
        match_entities(task, predictions, entities),
    ]
    return [measure for measure in measures if measure is not None]


def match_entities(task: Task, predictions: Predictions, source: EntitySource) -> EntityMatches | None:
    """The entities of the references and what became of them; None where there are none.

    Raises: see `diagnose`.
    """
    raw, name = _entities(predictions, source)
    if not any(raw):
        return None
    references, outputs, entities = [], [], []
    for line, each in zip(predictions, raw, strict=True):
        plain = normaliser(task.normalizer, answer_language(line))
        references.append(plain(str(line["reference"])) if each else "")
        outputs.append(plain(str(line["output"])) if each else "")
        entities.append([text for text in map(plain, each) if text])
    words = {word for each in entities for entity in each for word in entity.split()}
    trained = None if source.train_store is None else trained_words(source.train_store, task.normalizer, words)
    return EntityMatches.of(references, outputs, entities, name, task.scored_by == "wer", trained)


def trained_words(path: str, normalizer: str, words: set[str]) -> dict[str, int]:
    """How often each of the words occurs in the transcripts of a store's train split (all, where it has no splits).

    Raises:
        StoreError: no usable store.
    """
    store = Store.open(path)
    counts = dict.fromkeys(words, 0)
    rows = store.select(split=TRAIN_SPLIT)
    column = store.columns(["text"])["text"]
    plain = normaliser(normalizer)
    for text in (column.take(rows) if len(rows) else column).to_pylist():
        for word in plain(text).split():
            if word in counts:
                counts[word] += 1
    return counts


def _entities(predictions: Predictions, source: EntitySource) -> tuple[list[list[str]], str]:
    if source.file is not None:
        found, _ = entities_of([str(line["reference"]) for line in predictions], source.file)
        return found, source.file.name
    if any(isinstance(line.get("entities"), list) for line in predictions):
        return [[str(entity) for entity in line.get("entities") or []] for line in predictions], FIELD
    return [mentions(str(line["reference"]), answer_language(line)) for line in predictions], HEURISTIC
