"""Load an LLM from its files as a `FrozenLLM`, in the way that the `llm` settings say.

    llm = load_llm(resolve_model("smollm2-135m", "llm"), device)                               all defaults
    llm = load_llm(source, device, "bfloat16", tokenizer, LlmConfig(attention="sdpa"))         attention chosen

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
from speechmapper.config import AUTO, LlmConfig
from speechmapper.layer_checkpointing import checkpoint_layers
from speechmapper.llm import FrozenLLM


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
            unknown dtype, or one whose layers cannot be checkpointed as chosen.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = config or LlmConfig()
    files: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    options = {**files, "dtype": choose_dtype(dtype, device, "LLM dtype")}
    if config.attention != AUTO:
        options["attn_implementation"] = config.attention
    with quiet_transformers():
        try:
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, **files)
            model = AutoModelForCausalLM.from_pretrained(source.folder, local_files_only=True, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"--llm {source.id}: cannot be loaded as a causal LLM ({reason[:200]})") from error
    require_vectors(model, f"--llm {source.id}")
    if config.checkpointing:
        checkpoint_layers(model, f"--llm {source.id}")
    return FrozenLLM(model.to(device), tokenizer, source)
