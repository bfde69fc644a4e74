"""Evaluations for the tests of reports: in memory, and as folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechmapper.eval.report.evaluations import Evaluation

TEXTS = ("the dog ran home", "a cat slept all day", "they met in Oslo")


def line(reference: str, output: str, **more: Any) -> dict[str, Any]:
    return {"reference": reference, "output": output, **more}


LINES = [line(text, text, id=f"u{number}") for number, text in enumerate(TEXTS)]


def evaluation(
    name: str = "run",
    lines: Sequence[Mapping[str, Any]] = LINES,
    about: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Evaluation:
    shown = {"wer": 0.125, "utterances": len(lines)} if metrics is None else metrics
    return Evaluation(name, Path(name), lines, {"task": "asr"} if about is None else about, shown)


def write_evaluation(
    folder: Path,
    lines: Sequence[Mapping[str, Any]] = LINES,
    about: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    made = {"task": "asr"} if about is None else dict(about)
    folder.mkdir(parents=True, exist_ok=True)
    # In ASCII, so that texts may have half a surrogate pair, as other programs write.
    (folder / "predictions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    (folder / "about.json").write_text(json.dumps(made), encoding="utf-8")
    shown = {"wer": 0.125, "cer": 0.1, "utterances": len(lines), "normalizer": "mms-2"} if metrics is None else metrics
    (folder / "metrics.json").write_text(json.dumps({**shown, **made}), encoding="utf-8")
    return folder


def write_corpus(folder: Path, ids: Sequence[str], seconds: float = 1.0) -> Path:
    """A manifest of recordings of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
    for name in ids:
        soundfile.write(folder / f"{name}.wav", samples, 16_000)
    rows = [{"id": name, "audio": f"{name}.wav", "text": "x"} for name in ids]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest
