"""A frozen LLM whose layers are divided among the processes of a run (FSDP); projector and embeddings are in each.

    shard_layers(model, torch.device("cuda:1"), "--llm L")     in every process, after loading, before `.to(device)`
    process 0: first half of each layer's weights  -+-> gathered when the layer runs, then freed
    process 1: second half                         -+

Each layer is moved to the device and cut before the next one is, so that the LLM need not fit into one GPU. Weights of
safetensors files are mapped until then, not read: the processes of a machine share them.

Every layer that runs is a collective: all processes have to call the LLM equally often, in the same order. `FrozenLLM`
therefore keeps no shared start and generates until the last process is done; validation takes its batches in step.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import distributed, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sm_store.errors import ConfigError


def require_processes() -> None:
    """Check that there are processes to share an LLM. Raises ConfigError."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        raise ConfigError(
            "llm.shard: there is one process, and nothing to divide; start several with --processes N, or set "
            "llm.shard=false"
        )


def shard_layers(model: Any, device: torch.device, name: str) -> None:
    """Keep of each layer's weights this process's part alone, on the device; the other weights stay where they are.

    Args:
        model: a Hugging Face causal LM, the same in every process, without gradients of its weights.
        name: what it is called in errors.

    Raises:
        ConfigError: one process, a torch that cannot, or an LLM that is quantised, on several devices, or without
            layers that transformers could checkpoint.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    require_processes()
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ConfigError(f"llm.shard: torch {torch.__version__} cannot divide a part of a model; install a newer one")
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"llm.shard: {name}: {type(model).__name__} has no layers to divide; set llm.shard=false")
    if getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None):
        raise ConfigError(
            f"llm.shard: {name} is quantised, or placed on several devices, and cannot be divided besides; set "
            "llm.shard=false, or load it whole"
        )
    model.requires_grad_(False)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    divided = {weight for layer in layers for weight in layer.parameters()}
    # The root has no weights of its own: it lets a layer be gathered while the one before it runs.
    fully_shard(model, mesh=mesh, ignored_params={weight for weight in model.parameters() if weight not in divided})


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_layers` has divided a model."""
    if not distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)
