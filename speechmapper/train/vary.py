"""The runs of a sweep: every combination of the values of `--vary`, each with a name and its configuration.

    --vary optimizer.lr=1e-3,1e-4 --vary seed=1,2

    name                settings
    lr-0.001_seed-1     {"optimizer.lr": 0.001, "seed": 1}
    lr-0.001_seed-2     {"optimizer.lr": 0.001, "seed": 2}
    lr-0.0001_seed-1    {"optimizer.lr": 0.0001, "seed": 1}
    lr-0.0001_seed-2    {"optimizer.lr": 0.0001, "seed": 2}

The first `--vary` changes slowest. A name is the run's folder: the last word of each key, or all of it where two keys
end alike, and the value, numbers rounded to six digits, lists joined by `x` (`strides-2x1`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sm_store.errors import ConfigError, quoted
from speechmapper.config import Stage1Config, Stage2Config
from speechmapper.config_file import load_config, nested, parse_values, stage2_of, to_plain

ALPHA, SIGMA = "objective.alpha", "tuning.sigma"
LONGEST_NAME = 120  # characters; a file system takes 255 bytes
# Accelerate keeps the first two once per process; the LLM is loaded once.
ONE_PER_PROCESS = ("run.device", "run.precision", "tuning.llm_dtype")
SECTION_PER_PROCESS = "llm."
_UNSAFE = re.compile(r"[^A-Za-z0-9.+=_-]+")

Layers = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting that is varied: its key, such as `optimizer.lr`, and its values as YAML gave them."""

    key: str
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of a sweep.

    Attributes:
        name: of its folder. settings: the varied ones, as JSON values by key.
    """

    name: str
    settings: Mapping[str, Any]
    config: Stage1Config | Stage2Config

    @property
    def flags(self) -> str:
        """The settings as the user would give them for this run alone: `--vary optimizer.lr=0.001 --vary seed=1`."""
        return " ".join(f"--vary {key}={json.dumps(value)}" for key, value in self.settings.items())


def parse_axes(settings: Sequence[str]) -> list[Axis]:
    """The axes of `KEY=V1,V2` settings.

    Raises:
        ConfigError: none, a setting that is not one, a key given twice, or one that runs of a process share.
    """
    axes = [Axis(*parse_values(setting)) for setting in settings]
    if not axes:
        raise ConfigError("--vary: name at least one setting with its values, such as --vary optimizer.lr=1e-3,1e-4")
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--vary {key}: given twice; put all of its values into one --vary (or --alpha)")
        if key in ONE_PER_PROCESS or key.startswith(SECTION_PER_PROCESS):
            raise ConfigError(f"--vary {key}: all runs of one process share it; set it with --set, one sweep for each")
    return axes


def stage1_variants(layers: Layers, axes: Sequence[Axis]) -> list[Variant]:
    """One variant per combination of the axes' values, laid over `layers` (preset, file, `--set`).

    Raises:
        ConfigError: an unknown key, a bad value, or two runs whose folders would have the same name; names `--vary`.
    """
    return _variants(lambda whole: load_config("stage1", Stage1Config, whole), layers, axes)


def stage2_variants(layers: Layers, axes: Sequence[Axis]) -> list[Variant]:
    """As `stage1_variants`; the defaults that depend on task and sigma are each variant's own."""
    return _variants(stage2_of, layers, axes)


def _variants(
    load: Callable[[Layers], Stage1Config | Stage2Config], layers: Layers, axes: Sequence[Axis]
) -> list[Variant]:
    variants: list[Variant] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        given = [(f"--vary {axis.key}", nested(axis.key, value)) for axis, value in zip(axes, values, strict=True)]
        shown = " ".join(f"--vary {axis.key}={quoted(value)}" for axis, value in zip(axes, values, strict=True))
        with named_in_errors(shown, [name for name, _ in (*layers, *given)]):
            config = load([*layers, *given])
            settings = {axis.key: _value_at(config, axis.key) for axis in axes}
        variants.append(Variant(run_name(settings), settings, config))
    _require_different_names(variants)
    return variants


@contextmanager
def named_in_errors(flags: str, sources: Sequence[str] = ()) -> Iterator[None]:
    """Name the run in the message of a ConfigError by its flags, unless it begins with one of `sources`."""
    try:
        yield
    except ConfigError as error:
        if str(error).startswith(tuple(sources)):
            raise
        raise ConfigError(f"run of {flags}: {error}") from error


def run_name(settings: Mapping[str, Any]) -> str:
    """The folder of the run with these settings; safe on every file system.

    A name over `LONGEST_NAME` is cut, and ends with a checksum of the settings.
    """
    last = [key.rpartition(".")[2] for key in settings]
    shown = [word if last.count(word) == 1 else key for word, key in zip(last, settings, strict=True)]
    parts = (f"{word}-{_in_name(value)}" for word, value in zip(shown, settings.values(), strict=True))
    name = _UNSAFE.sub("-", "_".join(parts))
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(json.dumps(dict(settings)).encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}-{digest}"


def _in_name(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_in_name, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _value_at(config: Stage1Config | Stage2Config, key: str) -> Any:
    """The resolved value of a key as a JSON value.

    Raises:
        ConfigError: a group of keys.
    """
    value = to_plain(config)
    for name in key.split("."):
        value = value[name]
    if isinstance(value, dict):
        raise ConfigError(f"--vary {key}: a group of keys; vary one of them, such as {key}.{next(iter(value))}")
    return value


def _require_different_names(variants: Sequence[Variant]) -> None:
    """Raises ConfigError where two folders would be one; a file system may not tell `A` from `a`."""
    seen: dict[str, Variant] = {}
    for variant in variants:
        other = seen.setdefault(variant.name.casefold(), variant)
        if other is not variant:
            raise ConfigError(
                f"{variant.flags}: the run would have the folder {other.name} of {other.flags}; give different values: "
                "they name the run folders, numbers rounded to six digits"
            )
