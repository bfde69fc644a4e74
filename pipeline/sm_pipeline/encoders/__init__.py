"""Speech encoders behind one interface: `load_encoder(name)` gives an `Encoder`, whatever its family."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from sm_pipeline.encoders import seamless
from sm_pipeline.encoders.base import Encoder
from sm_pipeline.encoders.presets import ENCODER_PRESETS
from sm_pipeline.models import resolve_model
from sm_store.errors import ConfigError, ModelError

__all__ = ["ENCODER_PRESETS", "Encoder", "load_encoder"]

COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_encoder(name: str, layer: int | None = None, device: str = "auto", dtype: str = "auto") -> Encoder:
    """An encoder by preset, local folder or Hub id (`owner/name[@revision]`).

    Args:
        layer: layer to tap, from 1; None for the last (24 for seamless-m4t-v2-large).
        device: a torch device, or `auto`: the GPU where there is one.
        dtype: precision of the forward pass, or `auto`: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ModelError: unknown or incomplete checkpoint, a family without support, a layer it does not have.
    """
    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    if name in ENCODER_PRESETS:
        model, extractor = seamless.build_preset(name)
        seamless.drop_after_tap(model)
        source = {"id": name, "revision": None}
        return seamless.SeamlessEncoder(model, extractor, layer, source, where, precision)
    files = resolve_model(name, "encoder")
    settings, _ = PreTrainedConfig.get_config_dict(files.folder)
    family = settings.get("model_type")
    if family != "seamless_m4t_v2":
        raise ModelError(
            f"--encoder {name}: model_type {family!r} is not supported; use a seamless_m4t_v2 "
            f"checkpoint or a preset ({', '.join(ENCODER_PRESETS)})"
        )
    model, extractor = seamless.read_checkpoint(files)
    source = {"id": files.id, "revision": files.revision}
    return seamless.SeamlessEncoder(model, extractor, layer, source, where, precision)


def choose_device(device: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"--device {device}: not a torch device; use auto, cpu or cuda[:N]") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: no CUDA GPU is visible here; use cpu")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in COMPUTE_DTYPES:
        raise ConfigError(f"compute dtype {dtype!r}: use auto, {', '.join(COMPUTE_DTYPES)}")
    return COMPUTE_DTYPES[dtype]
