"""Speech recognition: predictions to error rates, without any model.

    {"id": "test-00007", "reference": "The dog ran.", "output": "the dog ran", "relative_mse": 0.3, ...}
    -> {"wer": 0.0, "cer": 0.0, "relative_mse": 0.3, "utterances": 1, "normalizer": "mms-1"}

A prediction holds all that its score needs, so scores can be made again when a metric changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechmapper.measure.text import error_rates


def score_asr(predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Error rates over all predictions; the embedding error too where the readout measured it.

    `relative_mse` is averaged over positions (tokens and first pad) of the utterances that have a target.
    """
    metrics = error_rates([line["reference"] for line in predictions], [line["output"] for line in predictions])
    measured = [line for line in predictions if line.get("relative_mse") is not None]
    positions = sum(line["positions"] for line in measured)
    if positions:
        metrics["relative_mse"] = sum(line["relative_mse"] * line["positions"] for line in measured) / positions
    return metrics
