"""Load an LLM from its files as a `FrozenLLM`, in the way that the `llm` settings say.

    check_llm("smollm2-135m")                     before minutes are spent: what its configuration tells
    llm = load_llm(resolve_model("smollm2-135m", "llm"), device)                               all defaults
    llm = load_llm(source, device, "bfloat16", tokenizer, LlmConfig(quantize="4bit"))          a quarter of the memory

No code of a checkpoint is run.
"""

from __future__ import annotations

from typing import Any

import torch

from sm_pipeline.devices import choose_dtype
from sm_pipeline.models.llm_table import require_llm, require_vectors
from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.source import ModelSource, resolve_model
from sm_pipeline.models.weights import one_line
from sm_store.errors import ModelError
from speechmapper.config import AUTO, NONE, LlmConfig
from speechmapper.layer_checkpointing import checkpoint_layers, layers_of
from speechmapper.llm import FrozenLLM
from speechmapper.llm_sharding import require_processes, shard_layers
from speechmapper.quantization import keep_weights_layout, quantized_options, require_packages

# What transformers and bitsandbytes raise for files they cannot load, RuntimeError among others for lack of a kernel.
UNUSABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError)


def check_llm(llm: str, config: LlmConfig | None = None) -> None:
    """Check that an LLM can be loaded and given vectors, by its configuration alone; no weights are fetched or read.

    Args:
        llm: a model argument. config: how it is going to be loaded; None: the defaults.

    Raises:
        ModelError: no such LLM, no causal LLM, one that cannot be given vectors, or one without the attention chosen.
        ConfigError: layers that cannot be checkpointed, or a package that is not installed.
    """
    config = config or LlmConfig()
    source = resolve_model(llm, "llm", weights=False)
    _require_quantizable(source, config)
    with quiet_transformers():
        model = require_llm(source)
    if model is None:
        return
    if config.attention != AUTO:
        try:
            model.set_attn_implementation(config.attention)
        except (ValueError, ImportError) as error:
            raise ModelError(
                f"--llm {source.id}: cannot be run with llm.attention={config.attention} ({one_line(error)})"
            ) from error
    if config.checkpointing:
        layers_of(model, f"--llm {source.id}")
    if config.quantize != NONE and getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(
            f"--llm {source.id}: its weights are quantised already; leave llm.quantize out, or name the checkpoint "
            "without quantisation"
        )


def load_llm(
    source: ModelSource,
    device: torch.device,
    dtype: str = AUTO,
    tokenizer: Any | None = None,
    config: LlmConfig | None = None,
) -> FrozenLLM:
    """Load a causal LLM and its tokenizer from a folder or GGUF file.

    Args:
        dtype: float32, bfloat16, float16, or auto: bfloat16 on a GPU that has it, else float32.
        tokenizer: its tokenizer if it is loaded already (making one from a GGUF takes seconds).
        config: how it is loaded; None: the defaults.

    Raises:
        ModelError: not a causal LLM that transformers loads, or one without the attention chosen. ConfigError: an
            unknown dtype, one whose layers cannot be checkpointed or divided as chosen, or a package that is not
            installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = config or LlmConfig()
    if config.shard:
        require_processes()
    files: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    options = {**files, **_options(source, config, choose_dtype(dtype, device, "LLM dtype"), device)}
    with quiet_transformers():
        try:
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, **files)
            model = AutoModelForCausalLM.from_pretrained(source.folder, local_files_only=True, **options)
        except UNUSABLE as error:
            raise ModelError(
                f"--llm {source.id}: cannot be loaded as a causal LLM ({one_line(error)}); use another LLM"
            ) from error
    require_vectors(model, f"--llm {source.id}")
    if config.checkpointing:
        checkpoint_layers(model, f"--llm {source.id}")
    if config.shard:
        shard_layers(model, device, f"--llm {source.id}")
    if config.quantize == NONE:
        model = model.to(device)
    keep_weights_layout(model)
    return FrozenLLM(model, tokenizer, source, config.quantize)


def _options(source: ModelSource, config: LlmConfig, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is given besides the files."""
    options: dict[str, Any] = {"dtype": dtype}
    if config.attention != AUTO:
        options["attn_implementation"] = config.attention
    _require_quantizable(source, config)
    if config.quantize != NONE:
        options |= quantized_options(config.quantize, dtype, device)
    return options


def _require_quantizable(source: ModelSource, config: LlmConfig) -> None:
    if config.quantize == NONE:
        return
    require_packages()
    if source.gguf_file:
        raise ModelError(
            f"--llm {source.id}: {source.gguf_file} cannot be quantised again to {config.quantize}; name a folder "
            "with safetensors weights, or leave quantisation out"
        )
