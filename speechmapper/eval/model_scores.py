"""Scores of predictions that need a model of their own: COMET and judges. The other metrics need the texts alone.

    request = ModelScores(comet_request("Unbabel/wmt22-comet-da", None), JudgeRequest(("smollm2-135m",)))
    scored, made_by = scored_by_models(out, predictions, request)
    scored.figures()                                   {"comet": 84.2, "comet_on_target": 79.9, "judge_accuracy": 0.81}

`sm-eval score OUT` without flags loads no model: it takes the scores that an earlier call kept beside the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sm_store.errors import ConfigError
from speechmapper.eval.comet import CometRequest, comet_request, comet_segments
from speechmapper.eval.judges import RIGHT, JudgeRequest, judgements
from speechmapper.measure.sums import ScoredLines, Sums, ratio
from speechmapper.tasks import Task


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The models that score; None: none, but for what was kept."""

    comet: CometRequest | None = None
    judges: JudgeRequest | None = None

    def require(self, task: Task) -> None:
        """Check, before anything is predicted, that the models score answers of a task, and fetch those that judge.

        Raises:
            ConfigError: they do not. ModelError: no model of that name, or a Hub that cannot be reached.
        """
        if self.comet is not None and "translation" not in task.needs:
            raise ConfigError(f"--comet {self.comet.model}: {task.name} asks for no translation")
        if self.judges is not None and "question" not in task.placeholders:
            raise ConfigError(f"--judge {self.judges.judges[0]}: {task.name} asks no question")
        from sm_pipeline.models.source import resolve_model  # torch: `score` does without

        for name in self.judges.judges if self.judges is not None else ():
            resolve_model(name, "judge")


def requested_scores(
    comet: str | None, comet_env: Path | None, judges: Sequence[str] | None, device: str = "auto"
) -> ModelScores:
    """What `--comet`, `--comet-env` and `--judge` ask for, checked without loading a model.

    Raises:
        ConfigError: see `comet_request`, or a judge named twice.
    """
    names = tuple(judges or ())
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"--judge {twice[0]}: named twice")
    gpu = False if device == "cpu" else None
    return ModelScores(comet_request(comet, comet_env, gpu), JudgeRequest(names, device) if names else None)


class ModelScored(ScoredLines):
    """What models gave each of N predictions.

    Args:
        comet: a score of each, near 0 to 1; None: not measured.
        judged: by judge, its probability that each is right.
        off_target: whether each output is in another language than the one asked for; None: not known.
    """

    def __init__(
        self,
        comet: Sequence[float] | None = None,
        judged: Mapping[str, Sequence[float]] | None = None,
        off_target: np.ndarray | None = None,
    ) -> None:
        self._sums: dict[str, Sums] = {}
        if comet is not None:
            scores_N = 100 * np.asarray(comet, np.float64)
            self._sums["comet"] = _mean(scores_N)
            if off_target is not None:
                self._sums["comet_on_target"] = _mean(np.where(off_target, 0.0, scores_N))
        # Of each judge (J) and prediction: 1 where it is right.
        self._right_JN = np.array([np.asarray(each) > RIGHT for each in (judged or {}).values()], np.float64)
        if judged:
            self._sums["judge_accuracy"] = _mean(self._right_JN.mean(axis=0))

    def sums(self) -> Mapping[str, Sums]:
        """`comet`, `comet_on_target` and `judge_accuracy`, those that there are."""
        return self._sums

    def beside(self, rows: np.ndarray) -> dict[str, Any]:
        """`judge_accuracy_sd`, between several judges."""
        if len(self._right_JN) < 2 or not len(rows):
            return {}
        return {"judge_accuracy_sd": float(self._right_JN[:, rows].mean(axis=1).std(ddof=1))}


def scored_by_models(
    out: Path,
    predictions: Sequence[Mapping[str, Any]],
    request: ModelScores,
    off_target: np.ndarray | None = None,
) -> tuple[ModelScored, dict[str, Any]]:
    """What models say of each prediction, and what made it, for metrics.json.

    Args:
        off_target: whether each output is in another language than the one asked for (N,), where that is known.

    Raises:
        ConfigError, ModelError: see `judgements`. COMET raises nothing: it is `not measured` where it fails.
    """
    segments, comet = comet_segments(out, predictions, request.comet)
    judged, judges = judgements(out, predictions, request.judges)
    return ModelScored(segments, judged, off_target), {**comet, **judges}


def _mean(values_N: np.ndarray) -> Sums:
    return Sums(np.stack([values_N, np.ones(len(values_N))], axis=1), ratio)
