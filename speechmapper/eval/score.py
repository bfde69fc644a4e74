"""An evaluation from start to end: predictions, then metrics from those alone.

    evaluate_asr(PredictRequest(run, out, store))    predictions.jsonl, about.json, metrics.json in `out`
    score(out)                                       metrics.json again, from the predictions

metrics.json is flat: the rates first, then what made them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm_store.durable import write_file
from speechmapper.eval.asr import score_asr
from speechmapper.eval.predictions import read_predictions

if TYPE_CHECKING:
    from speechmapper.eval.predict import PredictRequest

METRICS_FILE = "metrics.json"


def evaluate_asr(request: PredictRequest) -> dict[str, Any]:
    """Predict and score; returns what is in metrics.json. Errors: see `predict`."""
    from speechmapper.eval.predict import predict  # torch and transformers: `score` does without

    predict(request)
    return score(request.out)


def score(out: Path) -> dict[str, Any]:
    """Metrics of the predictions in `out`, written to metrics.json; no model is loaded.

    Raises:
        ConfigError: no predictions, or a bad line.
    """
    predictions, about = read_predictions(out)
    metrics = {**score_asr(predictions), **about}
    write_file(out / METRICS_FILE, json.dumps(metrics, indent=1, ensure_ascii=False).encode() + b"\n")
    return metrics
