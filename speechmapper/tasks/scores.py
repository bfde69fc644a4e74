"""The scores that tasks choose from, each by the name that a task's file gives it.

    SCORES["wer"](predictions, "mms-2").figures()     {"wer": 0.1, "cer": 0.04, "utterances": 2, "normalizer": "mms-2"}
    SCORES["bleu"](predictions, "mms-2")              BLEU and chrF, each line in its own language
    SCORES["exact_match"](predictions, "mms-2")       exact match and F1 of answers

Predictions are lines of predictions.jsonl: `reference`, `output`, and where they are known `lang` (of the speech) and
`language` (of the answer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from speechmapper.measure.answers import AnswerMatches
from speechmapper.measure.sums import ScoredLines
from speechmapper.measure.text import count_errors
from speechmapper.measure.translation import TranslationMatches

Predictions = Sequence[Mapping[str, Any]]


def answer_language(line: Mapping[str, Any]) -> str | None:
    """The language that a prediction should be in: that of the answer, else of the speech; None: not known."""
    found = line.get("language") or line.get("lang")
    return None if found is None else str(found)


def _columns(predictions: Predictions) -> tuple[list[str], list[str]]:
    return [str(line["reference"]) for line in predictions], [str(line["output"]) for line in predictions]


def _word_errors(predictions: Predictions, normalizer: str) -> ScoredLines:
    return count_errors(*_columns(predictions), normalizer, [answer_language(line) for line in predictions])


def _translations(predictions: Predictions, normalizer: str) -> ScoredLines:
    languages = [None if line.get("language") is None else str(line["language"]) for line in predictions]
    return TranslationMatches.of(*_columns(predictions), languages)


def _answers(predictions: Predictions, normalizer: str) -> ScoredLines:
    return AnswerMatches.of(*_columns(predictions))


SCORES: Mapping[str, Callable[[Predictions, str], ScoredLines]] = {
    "exact_match": _answers,
    "wer": _word_errors,
    "bleu": _translations,
}
