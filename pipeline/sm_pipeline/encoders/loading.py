"""Reading an encoder's checkpoint: configuration, feature extractor, and the encoder's own weights.

    settings = read_settings(source)                       config.json
    config = read_config(Wav2Vec2Config, settings, "models/base")
    model = build(Wav2Vec2Model, config, source)           no memory for weights yet
    load_weights(model, source, ("", "wav2vec2."))         exactly the model's tensors, whatever else is stored

Configuration and weights are not ours: any problem with them is a `ModelError` that names the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import FeatureExtractionMixin, PreTrainedConfig

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.models.source import ModelSource, open_tensors
from sm_store.errors import ModelError

# torch's current names of a weight norm's two tensors, and the names in older checkpoints.
OLDER_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}

# We choose the attention implementation: a name in the configuration could stand for code fetched from the Hub.
NOT_TAKEN = ("attn_implementation", "_attn_implementation")

ConfigT = TypeVar("ConfigT", bound=PreTrainedConfig)
ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)
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


def build(model_class: Callable[[ConfigT], ModuleT], config: ConfigT, source: ModelSource) -> ModuleT:
    """The architecture without weights: every parameter is on the meta device.

    Raises:
        ModelError: a configuration that describes no such architecture.
    """
    try:
        with torch.device("meta"):
            return model_class(config)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ImportError) as error:
        raise ModelError(f"{source.folder}: its config.json cannot be used ({one_line(error)})") from error


def load_weights(model: torch.nn.Module, source: ModelSource, prefixes: Sequence[str]) -> None:
    """Fill the model with its tensors, in the precision they are stored in; no other tensor is read.

    Args:
        prefixes: possible prefixes of the encoder's tensor names, which is stored alone or as part of a larger model.

    Raises:
        ModelError: a tensor that is missing or of another shape.
    """
    tensors = open_tensors(source)
    stored = set(tensors.names())
    wanted = list(model.state_dict())
    prefix = max(prefixes, key=lambda each: sum(stored_name(each + name, stored) in stored for name in wanted))
    places = {name: stored_name(prefix + name, stored) for name in wanted}
    missing = [place for place in places.values() if place not in stored]
    if missing:
        raise ModelError(
            f"{source.folder}: no {missing[0]} among its weights ({len(missing)} missing); give a complete checkpoint"
        )
    try:
        model.load_state_dict({name: tensors.get(place) for name, place in places.items()}, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{source.folder}: weights and config.json do not fit ({one_line(error)})") from error


def stored_name(name: str, stored: set[str]) -> str:
    """A tensor's name in the checkpoint: the current one, or the older one where that is stored."""
    for ending, older in OLDER_NAMES.items():
        renamed = name.removesuffix(ending) + older
        if name.endswith(ending) and renamed in stored:
            return renamed
    return name


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of every parameter and buffer: name, dtype, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.ndim else tensor.cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(array.numpy().tobytes() if tensor.ndim == 0 else memoryview(array.numpy()).cast("B"))
    return digest.hexdigest()


def one_line(error: Exception) -> str:
    """An error's message on one line, truncated to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
