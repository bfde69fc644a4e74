"""Evaluation folders as a report reads them.

    read_evaluations(["runs/stage1/eval", "tuned=runs/stage2/eval"])
      -> [Evaluation("eval", ...), Evaluation("tuned", ...)]

A folder has predictions.jsonl, metrics.json and, if it is not very old, about.json. Its name in the report is that of
the folder, or what stands before `=`. Nothing newer than `reference` and `output` is required of a prediction, and
nothing at all of the metrics: what is absent is shown as a dash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sm_store.errors import ConfigError, quoted
from speechmapper.eval.predictions import read_predictions
from speechmapper.eval.score import METRICS_FILE

Prediction = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation.

    Attributes:
        name: in the report, unique in it.
        predictions: lines of predictions.jsonl.
        about: contents of about.json, what made them.
        metrics: contents of metrics.json without what about.json has.
    """

    name: str
    path: Path
    predictions: Sequence[Prediction]
    about: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of the task; `asr` where none is recorded, as `sm-eval score` takes it."""
        return str(self.about.get("task", "asr"))


def read_evaluations(places: Sequence[str]) -> list[Evaluation]:
    """Read evaluation folders, each given as `OUT` or `NAME=OUT`.

    Raises:
        ConfigError: a folder that is no evaluation or was never scored, or two of one name.
    """
    named: dict[str, Path] = {}
    for place in places:
        name, path = _named(place)
        if name in named:
            raise ConfigError(
                f"{named[name]}, {path}: two evaluations named {name!r}; give one of them another name: NAME={path}"
            )
        named[name] = path
    return [_read(name, path) for name, path in named.items()]


def number(metrics: Mapping[str, Any], key: str) -> float | None:
    """A metric where it is a finite number, else None."""
    value = metrics.get(key)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value is not None else None


def interval(metrics: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric, where there is one."""
    found = metrics.get(f"{key}_ci95")
    if not isinstance(found, list) or len(found) != 2:
        return None
    low, high = (number({"at": each}, "at") for each in found)
    return None if low is None or high is None else (low, high)


def _named(place: str) -> tuple[str, Path]:
    """Name and folder of an argument; a folder whose own name has a `=` in it is taken as it is."""
    name, equals, folder = place.partition("=")
    if name and equals and not Path(place).exists():
        return name, Path(folder)
    return Path(place).resolve().name, Path(place)


def _read(name: str, path: Path) -> Evaluation:
    predictions, about = read_predictions(path)
    place = path / METRICS_FILE
    try:
        metrics = json.loads(place.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{place}: not there; run `sm-eval score {path}` first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place}: cannot be read ({quoted(str(error))}); run `sm-eval score {path}` again"
        ) from error
    if not isinstance(metrics, dict):
        raise ConfigError(f"{place}: not what an evaluation has written; run `sm-eval score {path}` again")
    own = {key: value for key, value in metrics.items() if key not in about}
    return Evaluation(name, path, predictions, about, own)
