"""Predictions on disk: all that scoring needs, readable without a model.

    OUT/predictions.jsonl   one line an utterance: id, prompt, reference, output (and distances to the target)
    OUT/about.json          what made them: run, readout, LLM, split, versions

Both are replaced as a whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sm_store.durable import write_file
from sm_store.errors import ConfigError

PREDICTIONS_FILE = "predictions.jsonl"
ABOUT_FILE = "about.json"


def write_predictions(out: Path, predictions: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Both files of an evaluation, each replaced as a whole.

    Raises:
        ConfigError: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(
            out / PREDICTIONS_FILE,
            b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in predictions),
        )
        write_file(out / ABOUT_FILE, json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error


def read_predictions(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The predictions of an evaluation and what made them.

    Raises:
        ConfigError: none there, a line that is not a prediction (file:line), or an about.json that is no object.
    """
    path = out / PREDICTIONS_FILE
    try:
        raw = path.read_bytes().decode().removesuffix("\n").split("\n")  # texts may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no predictions there; run `sm-eval asr ... --out {out}` first") from error
    if raw == [""]:
        raise ConfigError(f"{path}: no predictions in it; run `sm-eval asr ... --out {out}` again")
    predictions = []
    for number, text in enumerate(raw, start=1):
        try:
            line = json.loads(text)
            complete = isinstance(line["reference"], str) and isinstance(line["output"], str) and _measured(line)
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise ConfigError(
                f"{path}:{number}: not a prediction (id, reference, output); remove the line or predict again"
            )
        predictions.append(line)
    return predictions, _read_about(out / ABOUT_FILE)


def _measured(line: dict[str, Any]) -> bool:
    """Whether a prediction's distance to its target is a number over a count of positions, or none at all."""
    distance, positions = line.get("relative_mse"), line.get("positions")
    return distance is None or (isinstance(distance, int | float) and type(positions) is int and positions >= 0)


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise ConfigError(f"{path}: not what an evaluation has written; remove it or predict again")
    return about
