"""The settings of an extraction: plain values, checked, importable without torch.

    ExtractConfig(Path("corpus.jsonl"), Path("corpus.store"), targets=TargetConfig("smollm2-135m"))

An impossible value is a `ConfigError` that names its flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from sm_store.codec import CHOICES, codec_of
from sm_store.errors import ConfigError
from sm_store.geometry import Geometry
from sm_store.reading.remote import local_folder

DEFAULT_ENCODER = "facebook/seamless-m4t-v2-large"
MAX_SECONDS = 60.0  # attention memory grows with the square of an utterance's length
# On a CPU, one or two utterances fit the caches and need little padding; a GPU needs many rows.
BATCH_SECONDS = {"cpu": 15.0, "cuda": 320.0}
UNIT_UTTERANCES = 512

TargetKind = Literal["dense", "table"]
Layout = Literal["zarr", "webdataset"]
StoreDtype = Literal["float16", "bfloat16", "float32"]
Engine = Literal["local", "slurm", "ray"]
Numbers = Literal["keep", "remove"]


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """Which LLM the targets are for, and how they are stored.

    Attributes:
        llm: preset, folder, GGUF file or Hub id.
        kind: `dense` stores padded embeddings, `table` stores token ids and embeds them when read.
        name: of the target set; None: made from `llm`.
        pad_token: None: chosen by `extraction.llm_targets.choose_pad`.
        geometry: the projector's convolutions, from frames to vectors.
    """

    llm: str
    kind: TargetKind = "dense"
    name: str | None = None
    pad_token: str | None = None
    geometry: Geometry = field(default_factory=Geometry)

    def __post_init__(self) -> None:
        _one_of("--targets", self.kind, get_args(TargetKind))


@dataclass(frozen=True, slots=True)
class ExtractConfig:
    """Every setting of `extract`.

    Attributes:
        manifest: JSONL file. store: folder of the store to make or continue.
        encoder: preset, folder or Hub id. layer: to tap, from 1; None for the last.
        average: encoder frames averaged into one.
        targets: the LLM whose targets are written too; None: features only.
        layout: of the shards, zarr or webdataset. dtype: of the stored features.
        compression: one of `sm_store.codec.CHOICES`, or a codec's full name as an identity gives it.
        engine: what runs the work units. workers: processes; None: one per GPU, or one per CPU core.
        device: torch device, or auto. compute_dtype: precision of the encoder, or auto.
        split: only the utterances of this split.
        audio_root: folder that audio paths are relative to; None: the manifest's.
        max_rejects: more rejected utterances make the run fail; None: only a run that rejects all fails.
        max_seconds: longer utterances are rejected.
        batch_seconds: seconds of audio encoded at once, padding included; None: BATCH_SECONDS of the device.
        shard_utterances: most utterances in a shard.
        numbers: whether words of digits stay in the texts; None: as in the store that is there, keep in a new one.
    """

    manifest: Path
    store: Path
    encoder: str = DEFAULT_ENCODER
    layer: int | None = None
    average: int = 2
    targets: TargetConfig | None = None
    layout: Layout = "zarr"
    dtype: StoreDtype = "float16"
    compression: str = "none"
    engine: Engine = "local"
    workers: int | None = None
    device: str = "auto"
    compute_dtype: str = "auto"
    split: str | None = None
    audio_root: Path | None = None
    max_rejects: int | None = None
    max_seconds: float = MAX_SECONDS
    batch_seconds: float | None = None
    shard_utterances: int = UNIT_UTTERANCES
    numbers: Numbers | None = None

    def __post_init__(self) -> None:
        _one_of("--engine", self.engine, get_args(Engine))
        _one_of("--format", self.layout, get_args(Layout))
        _one_of("--dtype", self.dtype, get_args(StoreDtype))
        if self.numbers is not None:
            _one_of("--numbers", self.numbers, get_args(Numbers))
        codec_of(self.codec, 2)
        local_folder(self.store)
        _at_least("--average", self.average, 1)
        _at_least("--shard-utterances", self.shard_utterances, 1)
        _at_least("--workers", self.workers, 1)
        _at_least("--layer", self.layer, 1)
        _at_least("--max-rejects", self.max_rejects, 0)
        for flag, value in (("--max-seconds", self.max_seconds), ("--batch-seconds", self.batch_seconds)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{flag} {value}: give a positive number of seconds")

    def batch_on(self, device: str) -> float:
        """Seconds of audio encoded at once on a device."""
        return self.batch_seconds or BATCH_SECONDS["cuda" if device.startswith("cuda") else "cpu"]

    @property
    def codec(self) -> str | None:
        """Full name of the codec, None for none."""
        return CHOICES.get(self.compression, self.compression)


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{flag} {value}: choose {', '.join(choices)}")


def _at_least(flag: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{flag} {value}: give {least} or more")
