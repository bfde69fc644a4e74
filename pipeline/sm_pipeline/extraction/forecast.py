"""Size and cost of an extraction, estimated from the manifest and two configuration files.

    forecast(ExtractConfig(manifest=Path("corpus.jsonl"), store=Path("unused"), encoder="tiny-seamless"), rate=2800)
    Forecast(utterances=281241, hours=960.8, gigabytes=177.0, device_hours=0.34, ...)

Neither weights nor audio are read, except the headers of files whose duration the manifest does not give (and what
`--measure` encodes to measure the rate). What a lossless codec will save is unknown before, so it is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from transformers import AutoConfig

from sm_pipeline.audio import SAMPLE_RATE, file_seconds
from sm_pipeline.config import ExtractConfig
from sm_pipeline.console import progress
from sm_pipeline.encoders import read_outline
from sm_pipeline.extraction.plan import UnitRule, plan_units, same_audio
from sm_pipeline.extraction.rate import Rate, measure_rate
from sm_pipeline.manifest import Manifest, Utterance, read_manifest
from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import load_tokenizer, tokenizer_files
from sm_store.dtypes import numpy_dtype
from sm_store.errors import ModelError
from sm_store.int8 import NAME as INT8
from sm_store.shards.sizes import Sizes

SCALE_BYTES = 4  # of a frame of int8 features
TOKEN_BYTES = 4
TABLE_ITEMSIZE = 4  # a target set keeps the LLM's table in float32
CHARACTERS_A_TOKEN = 4  # bytes of text, as a rule of thumb
CATALOG_BYTES, TARGET_CATALOG_BYTES = 40, 25  # of a row, packed, without its text
TEXT_PACKED = 3  # a catalog's texts are packed to a third or so
FIELDS_BYTES = 250  # of the JSON of a record in a tar, without its text


@dataclass(frozen=True, slots=True)
class Forecast:
    """The size of an extraction.

    Attributes:
        unknown: utterances whose length neither the manifest nor the file's header gives; counted as zero seconds.
        too_long: longer than the limit; they will be rejected, and count as zero seconds.
        feature_gigabytes, target_gigabytes: of shards, 1e9 bytes.
        llm_gigabytes: of the LLM's embedding table and tokenizer, which a target set holds once.
        padded_gigabytes: the part of target_gigabytes that `--targets table` leaves out.
        gigabytes: of the whole store, catalogs included.
        rate: hours of audio per hour of a GPU (on a CPU: core); None: unknown. rate_from: where it comes from.
        device_hours: hours of audio over that rate; audio that several utterances share is encoded once.
    """

    utterances: int
    unknown: int
    too_long: int
    hours: float
    shards: int
    feature_gigabytes: float
    target_gigabytes: float
    llm_gigabytes: float
    padded_gigabytes: float
    gigabytes: float
    rate: float | None
    rate_from: str | None
    device_hours: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        without = (
            f" ({self.unknown} of unknown length, {self.too_long} too long)" if self.unknown + self.too_long else ""
        )
        parts = f"features {self.feature_gigabytes:.3f}, targets {self.target_gigabytes:.3f}"
        if self.llm_gigabytes:
            parts += f", the LLM's table and tokenizer {self.llm_gigabytes:.3f}"
        if self.padded_gigabytes:
            parts += f"; --targets table saves {self.padded_gigabytes:.3f}"
        cost = "GPU-hours: unknown; give --rate, or measure it here with --measure"
        if self.rate is not None and self.device_hours is not None:
            cost = (
                f"{_short(self.device_hours)} GPU-hours at {self.rate:.0f} hours of audio per hour ({self.rate_from})"
            )
        hours = f"{self.hours:.2f} hours of audio"
        if self.unknown == self.utterances:
            hours = "hours unknown: no length in the manifest, and no audio file can be read; check --audio-root"
        return (
            f"{self.utterances} utterances{without}, {hours}\n"
            f"{self.gigabytes:.3f} GB ({parts}) in {self.shards} shards\n{cost}"
        )


def forecast(config: ExtractConfig, rate: float | None = None, measure: bool = False) -> Forecast:
    """Predict what `extract` with the same settings writes, if nothing else is rejected.

    Args:
        rate: hours of audio that a GPU encodes in an hour, as `extract` reports them. measure: measure it here.

    Raises:
        ManifestError, ModelError: bad input.
    """
    manifest = read_manifest(config.manifest, config.audio_root)
    utterances = manifest.select(config.split)
    encoder = read_outline(config.encoder)
    itemsize = numpy_dtype(config.dtype).itemsize
    lengths = _lengths(manifest, utterances)
    usable = np.where(lengths <= config.max_seconds, lengths, 0.0)  # NaN compares false
    frames = encoder.num_frames(np.rint(usable * SAMPLE_RATE)) // config.average
    rule = UnitRule(encoder.frame_rate / config.average * encoder.width * itemsize, config.shard_utterances)
    starts = [unit.start for unit in plan_units(utterances, rule)]
    sizes = Sizes(config.layout, starts)
    if config.codec == INT8:
        features = sizes.rows(frames, encoder.width) + sizes.rows(frames, SCALE_BYTES)
    else:
        features = sizes.rows(frames, encoder.width * itemsize)
    texts = np.asarray([len(utterance.text.encode()) for utterance in utterances], np.int64)
    described = len(texts) * CATALOG_BYTES + int(texts.sum()) // TEXT_PACKED + sizes.texts(FIELDS_BYTES + texts)
    targets, llm, padded = 0, 0, 0
    if config.targets is not None:
        width, llm = _llm(config.targets.llm)
        targets = sizes.rows(texts // CHARACTERS_A_TOKEN, TOKEN_BYTES)
        if config.targets.kind == "dense":
            padded = sizes.rows(config.targets.geometry.num_vectors(frames), width * itemsize)
            targets += padded
        described += len(texts) * TARGET_CATALOG_BYTES
    found = Rate(rate, "given") if rate is not None else None
    if measure:
        measured = measure_rate(config, manifest, utterances)
        found = Rate(measured.hours_per_hour, f"measured on {measured.device}")
    hours = float(usable.sum()) / 3600
    once = usable[[group[0] for group in same_audio([each.segment for each in utterances])]]
    return Forecast(
        utterances=len(utterances),
        unknown=int(np.isnan(lengths).sum()),
        too_long=int((lengths > config.max_seconds).sum()),
        hours=hours,
        shards=len(starts),
        feature_gigabytes=features / 1e9,
        target_gigabytes=targets / 1e9,
        llm_gigabytes=llm / 1e9,
        padded_gigabytes=padded / 1e9,
        gigabytes=(features + targets + llm + described) / 1e9,
        rate=found.hours_per_hour if found else None,
        rate_from=found.device if found else None,
        device_hours=float(once.sum()) / 3600 / found.hours_per_hour if found else None,
    )


def _llm(name: str) -> tuple[int, int]:
    """Width of an LLM's input embeddings, and bytes of its table and tokenizer as a target set keeps them.

    Raises:
        ModelError: unknown LLM.
    """
    source = resolve_model(name, "llm", weights=False)
    settings = {"gguf_file": source.gguf_file} if source.gguf_file is not None else {}
    try:
        found = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True, **settings)
        text = found.get_text_config()
        width, vocabulary = int(text.hidden_size), int(text.vocab_size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"--llm {name}: its configuration cannot be read ({error}); use a causal LLM") from error
    files = tokenizer_files(source, load_tokenizer(source))
    return width, vocabulary * width * TABLE_ITEMSIZE + sum(map(len, files.values()))


def _short(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"


def _lengths(manifest: Manifest, utterances: Sequence[Utterance]) -> np.ndarray:
    """Seconds of each utterance, NaN where unknown; the file's header is read where the manifest gives no duration."""
    lengths = np.asarray([np.nan if each.duration is None else each.duration for each in utterances])
    silent = np.flatnonzero(np.isnan(lengths))
    with progress(len(silent), "headers", "files") as shown:
        for index in silent.tolist():
            whole = file_seconds(manifest.audio_path(utterances[index]))
            lengths[index] = np.nan if whole is None else max(whole - (utterances[index].offset or 0.0), 0.0)
            shown.advance()
    return lengths
