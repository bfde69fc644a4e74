"""Load an LLM from its files as a `FrozenLLM`, in the way that the `llm` settings say.

    llm = load_llm(resolve_model("smollm2-135m", "llm"), device)                               all defaults
    llm = load_llm(source, device, "bfloat16", tokenizer, LlmConfig(quantize="4bit"))          a quarter of the memory

No code of a checkpoint is run.
"""

from __future__ import annotations

from typing import Any

import torch

from sm_pipeline.devices import choose_dtype
from sm_pipeline.models.llm_table import require_vectors
from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.source import ModelSource
from sm_store.errors import ModelError
from speechmapper.config import AUTO, NONE, LlmConfig
from speechmapper.layer_checkpointing import checkpoint_layers
from speechmapper.llm import FrozenLLM
from speechmapper.quantization import keep_weights_layout, quantized_options

# What transformers and bitsandbytes raise for files they cannot load, RuntimeError among others for lack of a kernel.
UNUSABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError)


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
            unknown dtype, one whose layers cannot be checkpointed as chosen, or a package that is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = config or LlmConfig()
    files: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    options = {**files, **_options(source, config, choose_dtype(dtype, device, "LLM dtype"), device)}
    with quiet_transformers():
        try:
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, **files)
            model = AutoModelForCausalLM.from_pretrained(source.folder, local_files_only=True, **options)
        except UNUSABLE as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"--llm {source.id}: cannot be loaded as a causal LLM ({reason[:200]})") from error
    require_vectors(model, f"--llm {source.id}")
    if config.checkpointing:
        checkpoint_layers(model, f"--llm {source.id}")
    if config.quantize == NONE:
        model = model.to(device)
    keep_weights_layout(model)
    return FrozenLLM(model, tokenizer, source, config.quantize)


def _options(source: ModelSource, config: LlmConfig, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is given besides the files."""
    options: dict[str, Any] = {"dtype": dtype}
    if config.attention != AUTO:
        options["attn_implementation"] = config.attention
    if config.quantize != NONE:
        if source.gguf_file:
            raise ModelError(
                f"--llm {source.id}: {source.gguf_file} cannot be quantised again to {config.quantize}; name a folder "
                "with safetensors weights, or leave quantisation out"
            )
        options |= quantized_options(config.quantize, dtype, device)
    return options
