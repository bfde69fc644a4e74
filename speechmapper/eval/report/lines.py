"""The predictions of an evaluation with their words and how wrong each is.

    lines = measured_lines(evaluation)
    lines[0].errors      3: words that are wrong
    lines[0].badness     3.0 for a transcript; 0.25 of a translation's words; 1 - F1 of an answer

Badness orders the predictions of one evaluation, and is comparable in it only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechmapper.eval.report.alignment import Words, edits, words_of
from speechmapper.eval.report.evaluations import Evaluation, Prediction
from speechmapper.eval.score import recorded_normalizer
from speechmapper.measure.text import answer_scores

BY_RATE = "bleu"  # among the metrics: translations, whose edits are taken relative to their length
BY_F1 = "f1"  # answers


@dataclass(frozen=True, slots=True)
class Line:
    """A prediction, measured.

    Attributes:
        reference, output: their words as they are scored.
        errors: words of them that differ. badness: what orders the lines, larger is worse.
    """

    prediction: Prediction
    reference: Words
    output: Words
    errors: int
    badness: float

    @property
    def id(self) -> str:
        """Of the utterance; empty where none is recorded."""
        return str(self.prediction.get("id", ""))


def measured_lines(evaluation: Evaluation) -> list[Line]:
    """Every prediction, in the order of the file."""
    recorded = evaluation.metrics.get("normalizer")
    normalizer = recorded if isinstance(recorded, str) else recorded_normalizer(evaluation.about)
    words = [_words(line, normalizer) for line in evaluation.predictions]
    errors = edits(words)
    return [
        Line(prediction, *pair, count, _badness(evaluation, prediction, pair, count))
        for prediction, pair, count in zip(evaluation.predictions, words, errors, strict=True)
    ]


def _words(line: Prediction, normalizer: str) -> tuple[Words, Words]:
    language = line.get("language", line.get("lang"))
    known = language if isinstance(language, str) else None
    reference, output = (words_of(line[name], normalizer, known) for name in ("reference", "output"))
    return reference, output


def _badness(run: Evaluation, prediction: Prediction, words: tuple[Words, Words], errors: int) -> float:
    if BY_F1 in run.metrics:
        f1: Sequence[float] = [answer_scores([prediction["reference"]], [prediction["output"]])["f1"]]
        return 1.0 - f1[0]
    return errors / max(len(words[0]), 1) if BY_RATE in run.metrics else float(errors)
