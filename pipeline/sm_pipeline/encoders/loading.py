"""Reading an encoder's checkpoint: configuration and feature extractor.

    settings = read_settings(source)                       config.json
    config = read_config(Wav2Vec2Config, settings, "models/base")

Weights are read by `sm_pipeline/models/weights.py`. Any problem with the configuration is a `ModelError` that names the
folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import FeatureExtractionMixin, PreTrainedConfig

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.models.source import ModelSource
from sm_pipeline.models.weights import one_line
from sm_store.errors import ModelError

# We choose the attention implementation: a name in the configuration could stand for code fetched from the Hub.
NOT_TAKEN = ("attn_implementation", "_attn_implementation")

ConfigT = TypeVar("ConfigT", bound=PreTrainedConfig)
ExtractorT = TypeVar("ExtractorT", bound=FeatureExtractionMixin)


def read_settings(source: ModelSource) -> dict[str, Any]:
    """A checkpoint's config.json, as it is.

    Raises:
        ModelError: there is none, or it is no JSON object.
    """
    path = source.folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({one_line(error)}); complete the checkpoint") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: not a JSON object; complete the checkpoint")
    return settings


def read_config(config_class: type[ConfigT], settings: Mapping[str, Any], where: str) -> ConfigT:
    """The settings of a config.json, checked, with the family's defaults for what is missing.

    Raises:
        ModelError: settings that the family does not allow.
    """
    try:
        return config_class.from_dict({name: value for name, value in settings.items() if name not in NOT_TAKEN})
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{where}: its config.json cannot be used ({one_line(error)})") from error


def read_extractor(extractor_class: type[ExtractorT], source: ModelSource) -> ExtractorT:
    """The feature extractor of a checkpoint, which must take 16 kHz.

    Raises:
        ModelError: no preprocessor_config.json, a broken one, or another sample rate.
    """
    try:
        extractor = extractor_class.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{source.folder}: no feature extractor can be read from its preprocessor_config.json "
            f"({one_line(error)}); complete the checkpoint"
        ) from error
    rate = getattr(extractor, "sampling_rate", None)
    if rate != SAMPLE_RATE:
        raise ModelError(f"{source.folder}: its feature extractor takes {rate} Hz; only {SAMPLE_RATE} Hz is supported")
    return extractor


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of every parameter and buffer: name, dtype, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.ndim else tensor.cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(array.numpy().tobytes() if tensor.ndim == 0 else memoryview(array.numpy()).cast("B"))
    return digest.hexdigest()
