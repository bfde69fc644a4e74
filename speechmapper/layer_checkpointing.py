"""Gradient checkpointing of a frozen LLM: its layers keep their inputs alone, and run again in the backward pass.

    checkpoint_layers(model, "--llm smollm2-135m")      once, after loading; the model keeps its classes and names
    loss = llm.answer_loss(...)                         30 layers: 30 inputs are kept
    loss.backward()                                     each layer runs again, from the last to the first

transformers' own `gradient_checkpointing_enable` acts only in train mode, and drops the keys and values of a shared
start. Here a layer is given them as at first: the cache of `FrozenLLM.answer_loss` hands them out and keeps nothing, so
that running a layer again changes nothing. Without gradients, as in generation, layers run as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sm_store.errors import ConfigError


def checkpoint_layers(model: nn.Module, name: str) -> None:
    """Make every layer of an LLM recompute its intermediate results where gradients are needed.

    Args:
        model: a Hugging Face causal LM.
        name: what it is called in errors.

    Raises:
        ConfigError: as `layers_of`.
    """
    for layer in layers_of(model, name):
        # In the instance, inside of its hooks: those that gather a layer's weights run once for both passes.
        layer.forward = partial(_run, layer.forward)


def layers_of(model: nn.Module, name: str) -> list[nn.Module]:
    """The layers of an LLM, with or without weights, that can be checkpointed.

    Raises:
        ConfigError: it has no layers that transformers itself could checkpoint.
    """
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"llm.checkpointing: {name}: {type(model).__name__} has no layers that can be checkpointed; set "
            "llm.checkpointing=false, and data.max_utterances lower to save memory"
        )
    return layers


def _run(forward: Any, *args: Any, **kwargs: Any) -> Any:
    """The output of one layer."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
