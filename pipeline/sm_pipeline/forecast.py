"""What an extraction will take, before any compute: from the manifest and two configuration files.

    forecast(ExtractConfig(manifest=Path("corpus.jsonl"), store=Path("unused"), encoder="tiny-seamless"))
    Forecast(utterances=281241, hours=960.8, gigabytes=177.0, ...)

Neither weights nor audio are read, except the headers of files whose duration the manifest does not give.
Bytes are those of the arrays: features, and dense targets or token ids; catalogs and tokenizers add little. What a
lossless codec will save is not known before, so they are counted as without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from transformers import AutoConfig

from sm_pipeline.audio import SAMPLE_RATE, file_seconds
from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.console import progress
from sm_pipeline.encoders import read_outline
from sm_pipeline.manifest import Manifest, Utterance, read_manifest
from sm_pipeline.models import resolve_model
from sm_pipeline.plan import UnitRule, plan_units
from sm_store.errors import ModelError
from sm_store.int8 import NAME as INT8

SCALE_BYTES = 4  # of a frame of int8 features
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Forecast:
    """The size of an extraction.

    Attributes:
        unknown: utterances whose length neither the manifest nor a file header tells; counted as nothing.
        too_long: longer than the limit; they will be rejected, and are counted as nothing.
        feature_gigabytes, target_gigabytes, gigabytes: of arrays, 1e9 bytes.
    """

    utterances: int
    unknown: int
    too_long: int
    hours: float
    shards: int
    feature_gigabytes: float
    target_gigabytes: float
    gigabytes: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        without = (
            f" ({self.unknown} of unknown length, {self.too_long} too long)" if self.unknown + self.too_long else ""
        )
        parts = f"features {self.feature_gigabytes:.3f}, targets {self.target_gigabytes:.3f}"
        return (
            f"{self.utterances} utterances{without}, {self.hours:.2f} hours of audio\n"
            f"{self.gigabytes:.3f} GB ({parts}) in {self.shards} shards"
        )


def forecast(config: ExtractConfig) -> Forecast:
    """Predict what `extract` with the same settings writes, if nothing else is rejected.

    Raises:
        ManifestError, ModelError: bad input.
    """
    manifest = read_manifest(config.manifest, config.audio_root)
    utterances = manifest.select(config.split)
    encoder = read_outline(config.encoder)
    width = encoder.width
    itemsize = ITEMSIZE[config.dtype]
    lengths = _lengths(manifest, utterances)
    usable = np.where(lengths <= config.max_seconds, lengths, 0.0)  # NaN compares false
    frames = encoder.num_frames(np.rint(usable * SAMPLE_RATE)) // config.average
    feature_bytes = int(frames.sum()) * (width + SCALE_BYTES if config.codec == INT8 else width * itemsize)
    target_bytes = _target_bytes(config.targets, frames, itemsize) if config.targets is not None else 0
    rule = UnitRule(encoder.frame_rate / config.average * width * itemsize, config.shard_utterances)
    return Forecast(
        utterances=len(utterances),
        unknown=int(np.isnan(lengths).sum()),
        too_long=int((lengths > config.max_seconds).sum()),
        hours=float(usable.sum()) / 3600,
        shards=len(plan_units(utterances, rule)),
        feature_gigabytes=feature_bytes / 1e9,
        target_gigabytes=target_bytes / 1e9,
        gigabytes=(feature_bytes + target_bytes) / 1e9,
    )


def llm_width(name: str) -> int:
    """Width of an LLM's input embeddings, from its configuration alone.

    Raises:
        ModelError: unknown LLM.
    """
    source = resolve_model(name, "llm", weights=False)
    settings = {"gguf_file": source.gguf_file} if source.gguf_file is not None else {}
    try:
        found = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True, **settings)
        return int(found.get_text_config().hidden_size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"--llm {name}: its configuration cannot be read ({error}); use a causal LLM") from error


def _target_bytes(targets: TargetConfig, frames: np.ndarray, itemsize: int) -> int:
    if targets.kind == "table":
        return 0
    return int(targets.geometry.num_vectors(frames).sum()) * llm_width(targets.llm) * itemsize


def _lengths(manifest: Manifest, utterances: Sequence[Utterance]) -> np.ndarray:
    """Seconds of each utterance, NaN where unknown; a file's header is read where the manifest is silent."""
    lengths = np.asarray([np.nan if each.duration is None else each.duration for each in utterances])
    silent = np.flatnonzero(np.isnan(lengths))
    with progress(len(silent), "headers", "files") as shown:
        for index in silent.tolist():
            whole = file_seconds(manifest.audio_path(utterances[index]))
            lengths[index] = np.nan if whole is None else max(whole - (utterances[index].offset or 0.0), 0.0)
            shown.advance()
    return lengths
