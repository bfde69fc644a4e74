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
        ConfigError: none there, or a line that is not a prediction (file:line).
    """
    path = out / PREDICTIONS_FILE
    try:
        raw = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no predictions there; run `sm-eval asr ... --out {out}` first") from error
    predictions = []
    for number, text in enumerate(raw, start=1):
        try:
            line = json.loads(text)
            complete = isinstance(line["reference"], str) and isinstance(line["output"], str)
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise ConfigError(
                f"{path}:{number}: not a prediction (id, reference, output); remove the line or predict again"
            )
        predictions.append(line)
    about = out / ABOUT_FILE
    return predictions, json.loads(about.read_bytes()) if about.is_file() else {}
