"""What a training run can be told, and where it is told: preset < YAML file < `--set key=value`.

    presets/demo.yaml     stage1: {optimizer: {lr: 1.0e-3}}     named numbers, shipped
    my.yaml               stage1: {optimizer: {lr: 5.0e-4}}     --config my.yaml
                          --set optimizer.lr=2e-4               this run
    RUN/config.yaml       every value that was used; itself a file for --config

One frozen dataclass per component; each checks itself when it is made and is never changed after. A key that
no dataclass has is an error that names the nearest one. Values carry their unit in the name or the comment; a
number of the paper (arXiv 2601.20417) says so, the rest are our defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sm_store.errors import ConfigError

PRESETS = ("demo", "paper-llama", "paper-eurollm", "modern-gpu")
PRESET_FOLDER = Path(__file__).parent / "presets"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "constant")
TASKS = ("asr", "st", "sqa", "mix")
WEIGHTS = {"cosine": 1.0, "contrastive": 0.1, "ctc": 0.1}  # of an objective's parts, where none is given
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")

Config = TypeVar("Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Projector sizes; the input width comes from the store, the output width from its target set."""

    block_sizes: tuple[int, ...] = (1024, 2048)  # paper
    block_outputs: tuple[int, ...] = (2048, 4096)  # paper
    num_layers: tuple[int, ...] = (6, 6)  # paper
    num_heads: int = 8
    ffn_size: int = 2048  # follows from the paper's 277 M parameters
    kernel_sizes: tuple[int, ...] = (6, 6)  # paper
    strides: tuple[int, ...] = (2, 2)  # paper
    paddings: tuple[int, ...] = (2, 2)
    dropout: float = 0.1
    attention_dropout: float = 0.0
    norm_order: str = "pre"
    scale_to_table: bool = False  # multiply the head's output by the embedding table's RMS

    def __post_init__(self) -> None:
        _require(0 <= self.dropout < 1, f"model.dropout {self.dropout}: give 0 or more, below 1")
        _require(0 <= self.attention_dropout < 1, f"model.attention_dropout {self.attention_dropout}: give [0, 1)")
        _require(self.num_heads >= 1 and self.ffn_size >= 1, "model.num_heads and model.ffn_size: give 1 or more")
        _require(len(self.block_sizes) >= 1, "model.block_sizes: give at least one block")


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """The loss against the padded text embeddings: parts joined by `+`, such as `l1+cosine+contrastive`.

    A part's weight is used where the part is named; mse and l1 have the weight 1.
    """

    name: str = "mse"
    alpha: float = 5.0  # of word against pad positions in mse and l1; paper: 5, 7 and 9 tried, 5 kept
    reduction: str = "normalized"  # of mse and l1
    cosine_weight: float | None = None  # gamma, 1; paper: 100 in one digest, absent in another
    contrastive_weight: float | None = None  # 0.1 (arXiv 2607.01960)
    contrastive_temperature: float = 0.1  # of the cosine
    ctc_weight: float | None = None  # of the auxiliary CTC after block 1, 0.1
    ctc_temperature: float = 0.1  # of ctc-embedding's squared distances over the table's mean squared row norm
    negatives: int = 0  # rows of the vocabulary drawn at random in contrastive and both CTCs; 0: all of it

    def __post_init__(self) -> None:
        _require(self.negatives >= 0, f"objective.negatives {self.negatives}: give 0 or more")
        for name in ("contrastive_temperature", "ctc_temperature"):
            _require(0 < getattr(self, name) < math.inf, f"objective.{name} {getattr(self, name)}: give above 0")
        named = self.name.split("+")
        for part in WEIGHTS:
            weight = getattr(self, f"{part}_weight")
            _require(weight is None or weight >= 0, f"objective.{part}_weight {weight}: give 0 or more")
            _require(
                not weight or part in named,
                f"objective.{part}_weight {weight}: objective.name {self.name} has no {part}; add +{part} to it",
            )

    def weight(self, part: str) -> float:
        """Of one part in the sum."""
        given = getattr(self, f"{part}_weight", None)
        return WEIGHTS.get(part, 1.0) if given is None else given


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Batches. One optimizer step is `micro_batches` micro-batches, whatever the number of processes."""

    frames: int = 4096  # stored frames (25 Hz) of one micro-batch, counted after padding
    max_frames: int | None = None  # longest utterance that is used (alone if over `frames`); None: `frames`
    max_utterances: int | None = None  # of one micro-batch; None: as many as `frames` allows
    micro_batches: int = 1  # in one optimizer step, over all processes
    window: int = 8192  # utterances shuffled, then bucketed by length, together
    prefetch: int = 4  # steps read ahead

    def __post_init__(self) -> None:
        for name in ("frames", "micro_batches", "window", "prefetch"):
            _require(getattr(self, name) >= 1, f"data.{name} {getattr(self, name)}: give 1 or more")
        for name in ("max_frames", "max_utterances"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"data.{name} {value}: give 1 or more, or null")


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW (paper)."""

    lr: float = 1e-4  # paper
    betas: tuple[float, ...] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm; 0 switches clipping off
    ema: float = 0.0  # decay of a moving average of the weights, which is then validated and kept; 0: none

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"optimizer.lr {self.lr}: give a positive number")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optimizer.betas {self.betas}: give two numbers in [0, 1)",
        )
        _require(self.weight_decay >= 0, f"optimizer.weight_decay {self.weight_decay}: give 0 or more")
        _require(0 <= self.ema < 1, f"optimizer.ema {self.ema}: give 0 or more, below 1")
        _require(self.clip >= 0, f"optimizer.clip {self.clip}: give 0 or more")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Learning rate over the steps."""

    steps: int = 2_000_000  # paper; 0 writes the untrained projector
    warmup: int = 100_000  # steps, linear from 0; paper
    shape: str = "cosine"  # after the warm-up: cosine to 0 (paper, stage 1) or constant (paper, stage 2)

    def __post_init__(self) -> None:
        _require(self.steps >= 0, f"schedule.steps {self.steps}: give 0 or more")
        _require(
            0 <= self.warmup <= self.steps or self.steps == 0,
            f"schedule.warmup {self.warmup}: give 0 to {self.steps} (schedule.steps)",
        )
        _require(self.shape in SCHEDULES, f"schedule.shape {self.shape!r}: use one of {', '.join(SCHEDULES)}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How the run is carried out; nothing here changes what is learned, except `precision`."""

    precision: str = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    device: str = "auto"  # auto or cpu
    log_every: int = 50  # steps
    eval_every: int = 5000  # steps; 0: only at the end
    eval_utterances: int = 500  # of the validation split; 0 switches validation off
    save_every: int = 5000  # steps; 0: only at the end
    keep: int = 2  # newest checkpoints kept
    max_skipped: int = 20  # steps in a row with a non-finite gradient before the run stops
    examples: int = 5  # validation readouts written out
    compile: bool = False  # torch.compile the projector's blocks; needs a C compiler
    eet: str | None = None  # eet.json of `sm-eval eet`: validation tells its distance to that threshold
    stop_at_eet: bool = False  # end once validation is below it
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        _require(self.precision in PRECISIONS, f"run.precision {self.precision!r}: use {', '.join(PRECISIONS)}")
        _require(self.device in ("auto", "cpu"), f"run.device {self.device!r}: use auto or cpu")
        for name in ("eval_every", "eval_utterances", "save_every", "examples"):
            _require(getattr(self, name) >= 0, f"run.{name} {getattr(self, name)}: give 0 or more")
        for name in ("log_every", "keep", "max_skipped"):
            _require(getattr(self, name) >= 1, f"run.{name} {getattr(self, name)}: give 1 or more")
        _require(not self.stop_at_eet or self.eet is not None, "run.stop_at_eet: name the threshold's file by run.eet")
        unknown = [name for name in self.trackers if name not in TRACKERS]
        _require(not unknown, f"run.trackers {unknown}: use {', '.join(TRACKERS)}")


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """What stage 2 asks of the LLM."""

    task: str = "asr"
    sigma: float = 0.9  # weight of the MSE term; paper: 0.9 for CE + MSE, 0 for CE alone
    asr_share: float = 0.0  # share of utterances trained as ASR in st and sqa; paper: 0.5 for sqa
    llm_dtype: str = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU

    def __post_init__(self) -> None:
        _require(self.task in TASKS, f"tuning.task {self.task!r}: use one of {', '.join(TASKS)}")
        _require(0 <= self.sigma <= 1, f"tuning.sigma {self.sigma}: give a number from 0 to 1")
        _require(0 <= self.asr_share <= 1, f"tuning.asr_share {self.asr_share}: give a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class Stage1Config:
    """`sm-train stage1`."""

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True, slots=True)
class Stage2Config:
    """`sm-train stage2`; the projector's sizes come from its stage 1 run."""

    seed: int = 1
    tuning: TuningConfig = field(default_factory=TuningConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    # batch 12, accumulation 8, 1 K steps, constant 5e-5 (paper, CE + MSE)
    data: DataConfig = field(default_factory=lambda: DataConfig(frames=10_500, max_utterances=12, micro_batches=8))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-5))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(1000, 0, "constant"))
    run: RunConfig = field(default_factory=lambda: RunConfig(log_every=10, eval_every=250, save_every=250))


STAGES: dict[str, type] = {"stage1": Stage1Config, "stage2": Stage2Config}


def load_stage1(preset: str | None, file: Path | None, settings: Sequence[str]) -> Stage1Config:
    """The configuration of a stage 1 run; see `load_config`."""
    return load_config("stage1", Stage1Config, layers_of("stage1", preset, file, settings))


def load_stage2(preset: str | None, file: Path | None, settings: Sequence[str]) -> Stage2Config:
    """The configuration of a stage 2 run; see `load_config`."""
    return load_config("stage2", Stage2Config, layers_of("stage2", preset, file, settings))


def layers_of(
    stage: str, preset: str | None, file: Path | None, settings: Sequence[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """The layers of a configuration, weakest first, each with the words that name it in errors."""
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"--preset {preset}: unknown; use one of {', '.join(PRESETS)}")
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
        ConfigError: the file is missing, is not YAML, or has other top-level keys than the stages.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: not valid YAML: {reason[:200]}") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"{file}: expected `{stage}:` with its keys below it")
    for key in data:
        if key not in STAGES:
            raise ConfigError(f"{file}: unknown key {key!r}{_nearest(str(key), STAGES)}; keys go below `{stage}:`")
    if stage not in data:
        raise ConfigError(f"{file}: has no `{stage}:` section, only {', '.join(data)}")
    section = data[stage] if data[stage] is not None else {}
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: `{stage}:` is not a mapping")
    return section


def parse_setting(setting: str) -> dict[str, Any]:
    """`optimizer.lr=1e-3` as `{"optimizer": {"lr": 0.001}}`; the value is read as YAML."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {setting}: write key=value, such as optimizer.lr=1e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML") from error
    for name in reversed(key.strip().split(".")):
        value = {name: value}
    return value


def to_yaml(stage: str, config: Any) -> str:
    """The resolved configuration as a file that `--config` takes."""
    return yaml.safe_dump({stage: _plain(dataclasses.asdict(config))}, sort_keys=False, allow_unicode=True)


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as JSON values."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _merge(into: dict[str, Any], kind: type, values: Mapping[str, Any], source: str, path: tuple[str, ...]) -> None:
    """Lay `values` over `into`, checking every key and type against the dataclass `kind`."""
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
    """A dataclass from merged values, over the defaults its parent gives it."""
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
        hint = next(arm for arm in hint.__args__ if arm is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(item, hint.__args__[0], place) for item in items)
    words, reader = _SCALARS[hint]
    converted = reader(value)
    if converted is None:
        raise ConfigError(f"{place}: {value!r} is not {words}")
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
