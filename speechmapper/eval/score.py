"""An evaluation from start to end: predictions, then metrics from those alone.

    evaluate(PredictRequest(run, out, store))        predictions.jsonl, about.json, metrics.json in `out`
    score(out)                                       metrics.json again, from the predictions

In metrics.json the metrics are first, `NAME_ci95` beside those that have one, then the same by language and by the
fields asked for, then what made them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sm_pipeline.text import NORMALIZER
from sm_store.durable import write_file
from sm_store.errors import ConfigError
from speechmapper.eval.breakdown import breakdown, by_language, wording_spread
from speechmapper.eval.diagnosis import EntitySource, diagnose
from speechmapper.eval.model_scores import ModelScores, scored_by_models
from speechmapper.eval.predictions import ABOUT_FILE, read_predictions
from speechmapper.launch import is_main
from speechmapper.measure.language import LanguageRates
from speechmapper.measure.text import normaliser
from speechmapper.tasks import ASR, TASKS, FileTask, Task

if TYPE_CHECKING:
    from speechmapper.eval.predict import PredictRequest

METRICS_FILE = "metrics.json"


def evaluate(
    request: PredictRequest,
    normalizer: str | None = None,
    by: Sequence[str] = (),
    models: ModelScores | None = None,
) -> dict[str, Any]:
    """Predict and score; returns what is in metrics.json. Errors: see `predict` and `score`.

    Of several processes the main one scores; in the others nothing is returned.
    """
    if models is not None:
        models.require(request.task)
    if normalizer is not None:
        normaliser(normalizer)  # refused before anything is loaded
    from speechmapper.eval.predict import predict  # torch and transformers: `score` does without

    predict(request)
    return score(request.out, normalizer, by, models=models) if is_main() else {}


def score(
    out: Path,
    normalizer: str | None = None,
    by: Sequence[str] = (),
    entities: EntitySource | None = None,
    models: ModelScores | None = None,
) -> dict[str, Any]:
    """Metrics of the predictions in `out`, written to metrics.json; no model is loaded but those asked for.

    Args:
        normalizer: name of the text normaliser; None: the one the run was trained with.
        by: fields of the predictions by whose values the metrics are given too.
        entities: where entities are from, and the store that the run was trained on.
        models: COMET and judges that score besides; None: only what they gave before is taken.

    Raises:
        ConfigError: no predictions, a bad line, no normaliser of that name, a field that no prediction has, or no
            usable file of entities. StoreError: no usable store of the training. ModelError: a judge that cannot be
            used.
    """
    predictions, about = read_predictions(out)
    task = recorded_task(about, out / ABOUT_FILE).with_normalizer(normalizer or recorded_normalizer(about))
    measures = diagnose(task, predictions, entities or EntitySource())
    off_target = next((each.off_target() for each in measures if isinstance(each, LanguageRates)), None)
    by_models, made_by = scored_by_models(out, predictions, models or ModelScores(), off_target)
    parts = (task.scored(predictions), by_models)

    def figures(rows: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in parts:
            found |= {**part.figures(rows), **part.intervals(rows), **part.details(rows)}
        return {
            **found,
            **{name: value for measure in measures for name, value in measure.figures(rows).items()},
            **embedding_error([predictions[row] for row in rows]),
        }

    metrics = {
        **figures(np.arange(len(predictions))),
        **by_language(predictions, figures),
        **breakdown(predictions, by, figures),
        **wording_spread(predictions, [name for part in parts for name in part.sums()], figures),
        **made_by,
        **about,
    }
    write_file(out / METRICS_FILE, json.dumps(metrics, indent=1, ensure_ascii=False).encode() + b"\n")
    return metrics


def recorded_task(about: Mapping[str, Any], path: Path) -> Task:
    """The task of predictions. Raises ConfigError: an unknown one."""
    if "definition" in about:
        return FileTask(about["definition"], str(path))
    name = str(about.get("task", ASR.name))
    if name not in TASKS:
        raise ConfigError(f"{path}: unknown task {name!r}; predict again")
    return TASKS[name]


def recorded_normalizer(about: Mapping[str, Any]) -> str:
    """The text normaliser of the run that made the predictions: its target set's; the newest where none is recorded."""
    target = (about.get("run") or {}).get("target") or {}
    return str(target.get("normalizer", NORMALIZER))


def embedding_error(predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`relative_mse` over the positions (tokens and first pad) of the utterances that have a target, if any has."""
    measured = [line for line in predictions if line.get("relative_mse") is not None]
    positions = sum(line["positions"] for line in measured)
    if not positions:
        return {}
    return {"relative_mse": sum(line["relative_mse"] * line["positions"] for line in measured) / positions}
