"""An architecture without weights, and exactly its tensors out of a checkpoint.

    model = build(Wav2Vec2Model, config, source)           no memory for weights yet
    load_weights(model, source, ("", "wav2vec2."))         exactly the model's tensors, whatever else is stored

Any problem with configuration or weights is a `ModelError` that names the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from sm_pipeline.models.source import ModelSource, open_tensors
from sm_store.errors import ModelError

# torch's current names of a weight norm's two tensors, and the names in older checkpoints.
OLDER_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}

# What transformers and torch raise for a config.json that describes no model.
BROKEN_CONFIG: tuple[type[Exception], ...] = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError),
    StrictDataclassError,
)

ConfigT = TypeVar("ConfigT", bound=PreTrainedConfig)
ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def build(model_class: Callable[[ConfigT], ModuleT], config: ConfigT, source: ModelSource) -> ModuleT:
    """The architecture without weights: every parameter is on the meta device.

    Raises:
        ModelError: a configuration that describes no such architecture.
    """
    try:
        with torch.device("meta"):
            return model_class(config)
    except BROKEN_CONFIG as error:
        raise ModelError(f"{source.folder}: its config.json cannot be used ({one_line(error)})") from error


def load_weights(model: torch.nn.Module, source: ModelSource, prefixes: Sequence[str]) -> None:
    """Fill the model with its tensors, in the precision they are stored in; no other tensor is read.

    Args:
        prefixes: possible prefixes of the model's tensor names; it is stored alone or as a part of a larger model.

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


def one_line(error: Exception) -> str:
    """An error's message on one line, truncated to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
