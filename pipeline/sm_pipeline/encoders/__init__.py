"""Speech encoders behind one interface: `load_encoder(name)` gives an `Encoder`, whatever its family.

    load_encoder("facebook/seamless-m4t-v2-large", layer=24)
    load_encoder("openai/whisper-large-v3@main?padding=none")
    read_outline("models/mhubert")          Outline(width=768, field=400, hop=320), from config.json alone

A name is a preset, a folder or a Hub id (`owner/name[@revision]`); options follow a `?` as in a URL, where the
family has some. The family is `model_type` in config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from sm_pipeline.devices import choose_device, choose_dtype
from sm_pipeline.encoders import seamless, w2v_bert, wav2vec, whisper
from sm_pipeline.encoders.base import Encoder, EncoderRequest, Outline
from sm_pipeline.encoders.loading import read_settings
from sm_pipeline.models.source import ENCODER_PRESETS, ModelSource, resolve_model
from sm_store.errors import ConfigError, ModelError

__all__ = ["FAMILIES", "Encoder", "Outline", "load_encoder", "read_outline"]


@dataclass(frozen=True, slots=True)
class Family:
    """How the checkpoints of one `model_type` are read.

    Attributes:
        load: the encoder of a checkpoint, given its config.json. outline: from that config.json and its folder's name.
        options: names allowed after the `?`.
    """

    load: Callable[[ModelSource, Mapping[str, Any], EncoderRequest], Encoder]
    outline: Callable[[Mapping[str, Any], str], Outline]
    options: tuple[str, ...] = ()


PRESET_FAMILY = "seamless_m4t_v2"
FAMILIES: Mapping[str, Family] = {
    "seamless_m4t_v2": Family(seamless.load, seamless.outline),
    "whisper": Family(whisper.load, whisper.outline, options=("padding",)),
    "wav2vec2": Family(wav2vec.load, wav2vec.outline),
    "hubert": Family(wav2vec.load, wav2vec.outline),
    "wavlm": Family(wav2vec.load, wav2vec.outline),
    "wav2vec2-bert": Family(w2v_bert.load, w2v_bert.outline),
}


def load_encoder(name: str, layer: int | None = None, device: str = "auto", dtype: str = "auto") -> Encoder:
    """An encoder by preset, local folder or Hub id (`owner/name[@revision]`), with options after a `?`.

    Args:
        layer: layer to tap, from 1; None for the last (24 for seamless-m4t-v2-large).
        device: a torch device, or `auto`: the GPU where there is one.
        dtype: precision of the forward pass, or `auto`: bfloat16 on a GPU that has it, else float32.

    Raises:
        ModelError: unknown or incomplete checkpoint, a family without support, a layer it does not have.
        ConfigError: an option that the family does not have.
    """
    where = choose_device(device)
    place, options = split_options(name)
    request = EncoderRequest(layer, where, choose_dtype(dtype, where), options)
    if place in ENCODER_PRESETS:
        require_options(name, options, FAMILIES[PRESET_FAMILY])
        return seamless.load_preset(place, request)
    source = resolve_model(place, "encoder", weights=False)  # they come shard by shard, as the encoder's are read
    settings = read_settings(source)
    family = choose_family(name, settings)
    require_options(name, options, family)
    return family.load(source, settings, request)


def read_outline(name: str) -> Outline:
    """Width and frames of an encoder from its configuration alone; weights are not fetched.

    Raises:
        ModelError: unknown encoder, or a family without support.
        ConfigError: options that cannot be read.
    """
    place, _ = split_options(name)
    if place in ENCODER_PRESETS:
        return FAMILIES[PRESET_FAMILY].outline(ENCODER_PRESETS[place], place)
    source = resolve_model(place, "encoder", weights=False)
    settings = read_settings(source)
    return choose_family(name, settings).outline(settings, str(source.folder))


def split_options(name: str) -> tuple[str, dict[str, str]]:
    """The part of an encoder's name before its `?`, and the options after it."""
    place, mark, query = name.partition("?")
    try:
        return place, dict(parse_qsl(query, strict_parsing=True)) if mark else {}
    except ValueError as error:
        raise ConfigError(f"--encoder {name}: options after the ? have the form option=value") from error


def choose_family(name: str, settings: Mapping[str, Any]) -> Family:
    """The family of a config.json."""
    family = FAMILIES.get(str(settings.get("model_type")))
    if family is None:
        raise ModelError(
            f"--encoder {name}: model_type {settings.get('model_type')!r} is not supported; use a checkpoint of "
            f"{', '.join(FAMILIES)}, or a preset ({', '.join(ENCODER_PRESETS)})"
        )
    return family


def require_options(name: str, options: Mapping[str, str], family: Family) -> None:
    """Raise a ConfigError where the family does not have one of the options."""
    unknown = [option for option in options if option not in family.options]
    if unknown:
        takes = f"takes {', '.join(family.options)}" if family.options else "takes no options"
        raise ConfigError(f"--encoder {name}: no option {unknown[0]!r}; this family {takes}")
