"""Where the configuration of a training run comes from: preset < YAML file < `--set key=value`.

    presets/demo.yaml     stage1: {optimizer: {lr: 1.0e-3}}     --preset demo, shipped with the package
    my.yaml               stage1: {optimizer: {lr: 5.0e-4}}     --config my.yaml
                          --set optimizer.lr=2e-4               this run
                          --vary optimizer.lr=2e-4,1e-4         the runs of a sweep, one per value
    RUN/config.yaml       every value that was used; can be given as --config

Below them all lie the defaults of `speechmapper/config.py`; two of stage 2 depend on its task and sigma
(`tuning_defaults`). A key that is not in `speechmapper/config.py` is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sm_store.errors import ConfigError, one_line, quoted
from speechmapper.config import Stage1Config, Stage2Config, TuningConfig

PRESETS = ("demo", "best", "paper-llama", "paper-eurollm", "modern-gpu")
TUNING_PRESETS = ("paper-asr-ce", "paper-asr-ce-mse", "paper-st-ce", "paper-sqa-ce")  # of stage 2 alone
PRESETS_OF = {"stage1": PRESETS, "stage2": (*PRESETS, *TUNING_PRESETS)}
PRESET_FOLDER = Path(__file__).parent / "presets"

Config = TypeVar("Config")

CE_RATE = 1e-4  # paper: the learning rate of cross-entropy alone; 5e-5 with the objective
SQA, SQA_ASR_SHARE = "sqa", 0.5  # paper: as much ASR as question answering

STAGES: dict[str, type] = {"stage1": Stage1Config, "stage2": Stage2Config}


def load_stage1(preset: str | None, file: Path | None, settings: Sequence[str]) -> Stage1Config:
    """The configuration of a stage 1 run; see `load_config`."""
    return load_config("stage1", Stage1Config, layers_of("stage1", preset, file, settings))


def load_stage2(preset: str | None, file: Path | None, settings: Sequence[str]) -> Stage2Config:
    """The configuration of a stage 2 run; see `load_config` and `tuning_defaults`."""
    return stage2_of(layers_of("stage2", preset, file, settings))


def stage2_of(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Stage2Config:
    """The configuration of a stage 2 run from its layers; raises as `load_config`."""
    given = load_config("stage2", Stage2Config, layers)
    return load_config("stage2", Stage2Config, [("defaults", tuning_defaults(given.tuning)), *layers])


def tuning_defaults(tuning: TuningConfig) -> dict[str, dict[str, float]]:
    """Defaults of stage 2 that depend on its task and sigma (paper): a rate of 1e-4 for cross-entropy alone, and half
    of the utterances as ASR beside spoken question answering."""
    defaults: dict[str, dict[str, float]] = {}
    if tuning.sigma == 0:
        defaults["optimizer"] = {"lr": CE_RATE}
    if tuning.task == SQA:
        defaults["tuning"] = {"asr_share": SQA_ASR_SHARE}
    return defaults


def layers_of(
    stage: str, preset: str | None, file: Path | None, settings: Sequence[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The layers of a configuration, weakest first, each with its name in error messages."""
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if preset is not None:
        if preset not in PRESETS_OF[stage]:
            fault = "has settings of stage 2 alone" if preset in TUNING_PRESETS else "unknown"
            raise ConfigError(f"--preset {preset}: {fault}; use one of {', '.join(PRESETS_OF[stage])}")
        layers.append((f"preset {preset}", read_section(PRESET_FOLDER / f"{preset}.yaml", stage)))
    if file is not None:
        layers.append((str(file), read_section(file, stage)))
    layers.extend((f"--set {setting}", parse_setting(setting)) for setting in settings)
    return layers


def load_config(stage: str, kind: type[Config], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Config:
    """Merge layers, weakest first, into one checked configuration.

    Raises:
        ConfigError: an unknown key (names the nearest), a value of the wrong type, an impossible value.
    """
    merged: dict[str, Any] = {}
    for name, values in layers:
        _merge(merged, kind, values, name, ())
    try:
        return _build(kind, merged)
    except ConfigError as error:
        raise ConfigError(f"{stage}: {error}") from error


def read_section(file: Path, stage: str) -> Mapping[str, Any]:
    """The mapping under `stage:` of a configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has top-level keys that are not stages.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date, bytes not UTF-8
        raise ConfigError(f"{file}: not valid YAML: {one_line(error)}") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"{file}: expected `{stage}:` with its keys below it")
    for key in data:
        if key not in STAGES:
            raise ConfigError(
                f"{file}: unknown key {quoted(key)}{_nearest(str(key), STAGES)}; keys go below `{stage}:`"
            )
    if stage not in data:
        raise ConfigError(f"{file}: has no `{stage}:` section, only {', '.join(data)}")
    section = data[stage] if data[stage] is not None else {}
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: `{stage}:` is not a mapping")
    return section


def parse_setting(setting: str) -> dict[str, Any]:
    """`optimizer.lr=1e-3` as `{"optimizer": {"lr": 0.001}}`; the value is read as YAML."""
    key, text = _key_and_text(setting, f"--set {setting}", "key=value, such as optimizer.lr=1e-4")
    return nested(key, _read_value(text, f"--set {setting}"))


def parse_values(setting: str) -> tuple[str, list[Any]]:
    """`model.strides=[2,2],[2,1]` as `("model.strides", [[2, 2], [2, 1]])`: a key of `--vary` with its values.

    The values are read as the items of a YAML list: a comma inside brackets or quotes belongs to its value.
    """
    key, text = _key_and_text(setting, f"--vary {setting}", "key=value,value, such as optimizer.lr=1e-4,2e-4")
    values = _read_value(f"[{text}]", f"--vary {setting}")
    if not values:
        raise ConfigError(f"--vary {setting}: give at least one value, such as {key}=A,B")
    return key, values


def nested(key: str, value: Any) -> dict[str, Any]:
    """`("optimizer.lr", 0.001)` as `{"optimizer": {"lr": 0.001}}`: one setting as a layer of a configuration."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def _key_and_text(setting: str, source: str, form: str) -> tuple[str, str]:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{source}: write {form}")
    return key.strip(), text


def _read_value(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: the value is not valid YAML") from error


def to_yaml(stage: str, config: Any) -> str:
    """The resolved configuration as a file for `--config`."""
    return yaml.safe_dump({stage: _plain(dataclasses.asdict(config))}, sort_keys=False, allow_unicode=True)


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as JSON values."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _merge(into: dict[str, Any], kind: type, values: Mapping[str, Any], source: str, path: tuple[str, ...]) -> None:
    """Update `into` with `values`, checking every key and type against the dataclass `kind`."""
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        place = ".".join((*path, str(key)))
        if key not in hints:
            raise ConfigError(f"{source}: unknown key {place}{_nearest(str(key), hints)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {place} is a group of keys, not a value; write {place}.KEY")
            _merge(into.setdefault(key, {}), hints[key], value, source, (*path, key))
        else:
            into[key] = _convert(value, hints[key], f"{source}: {place}")


def _build(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A dataclass from merged values; missing ones take the defaults of the stage."""
    defaults = kind()
    changes = {
        key: dataclasses.replace(getattr(defaults, key), **value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return dataclasses.replace(defaults, **changes)  # type: ignore[type-var]


def _convert(value: Any, hint: Any, place: str) -> Any:
    """`value` as the annotated type; YAML reads 1e-4 as text and a list as a list."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        *others, hint = (arm for arm in hint.__args__ if arm is not types.NoneType)
        for arm in others:  # of `int | str` a whole number is one
            converted = _SCALARS[arm][1](value)
            if converted is not None:
                return converted
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(item, hint.__args__[0], place) for item in items)
    words, reader = _SCALARS[hint]
    converted = reader(value)
    if converted is None:
        raise ConfigError(f"{place}: {quoted(value)} is not {words}")
    return converted


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


_SCALARS: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    int: ("a whole number", _whole),
    float: ("a number", _number),
    bool: ("true or false", lambda value: value if isinstance(value, bool) else None),
    str: ("text", lambda value: value if isinstance(value, str) else None),
}


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
