"""What extraction takes from an LLM: its tokenizer and its input-embedding table. The model is never loaded.

    llm = load_llm_table("smollm2-135m")
    llm.table_VE.shape                     (49152, 576), float32
    llm.tokenizer("he hoped", add_special_tokens=False)["input_ids"]
    llm.tokenizer_files                    {"tokenizer.json": b"...", ...}, what the store keeps

The configuration says which module holds the table: the architecture is built on the meta device, with names
and shapes but no weights, to find its input embeddings. Then that one tensor is read.

Shapes: V vocabulary, E LLM width.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from sm_pipeline.models.source import ModelSource, open_tensors, resolve_model
from sm_pipeline.models.tensors import GgufTensors, TensorFiles
from sm_pipeline.models.tokenizer import load_tokenizer, tokenizer_files
from sm_pipeline.models.weights import BROKEN_CONFIG
from sm_store.dtypes import is_finite
from sm_store.errors import ModelError

GGUF_TABLE = "token_embd.weight"  # llama.cpp's name, whatever the architecture
NO_VECTORS = {
    "state": "keeps a state instead of keys and values, so that no speech can be put into its prompt; use another LLM",
    "layers": "gives each layer an embedding of the token ids, which speech has none of; use another LLM",
    "inputs": "does not take {}, by which speech is put into its prompt; use another LLM",
    "encoder": "is an encoder or has one, and does not continue a text from left to right; use a causal LLM",
}
NEEDED_INPUTS = ("inputs_embeds", "attention_mask", "logits_to_keep")  # of an LLM's forward
CACHES = ("past_key_values", "cache")  # names of its keys and values, by version of transformers
# In llama.cpp's names of architectures.
UNUSABLE_GGUF = {"mamba": "state", "rwkv": "state", "t5": "encoder", "bert": "encoder"}
SCALED_GGUF = "gemma"  # the family whose layers may receive the table's rows multiplied by a factor
_TABLE_SUFFIXES = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)


@dataclass(frozen=True, slots=True)
class LlmTable:
    """An LLM's tokenizer and input-embedding table.

    Attributes:
        table_VE: (V, E) float32, as the LLM's layers receive the embeddings (any embedding scale applied).
        tokenizer_files: contents by file name; a folder with them gives the same tokenizer again.
    """

    source: ModelSource
    table_VE: np.ndarray
    tokenizer: PreTrainedTokenizerBase
    tokenizer_files: dict[str, bytes]


def load_llm_table(name: str, what: str = "llm") -> LlmTable:
    """Read tokenizer and embedding table of an LLM.

    Args:
        name: preset, folder, GGUF file or Hub id; `what`: the flag that named it, for messages.

    Raises:
        ModelError: unknown or incomplete; or an LLM that cannot be given vectors (`require_vectors`).
    """
    source = resolve_model(name, what, weights=False)
    tokenizer = load_tokenizer(source, what)
    table_VE = np.ascontiguousarray(_read_table(source, open_tensors(source), what).numpy())
    if not is_finite(table_VE, "float32"):
        raise ModelError(f"--{what} {name}: its embedding table is not finite; fetch the checkpoint again")
    return LlmTable(source, table_VE, tokenizer, tokenizer_files(source, tokenizer))


@dataclass(frozen=True, slots=True)
class _TableModule:
    """The input embeddings in the architecture: their module's name, shape (V, E), and the factor applied."""

    name: str
    shape: tuple[int, ...]
    scale: float


def _read_table(source: ModelSource, tensors: TensorFiles, what: str) -> torch.Tensor:
    """The table as the layers receive its rows, (V, E) float32."""
    if isinstance(tensors, GgufTensors):
        _require_gguf(tensors, source, what)
    if isinstance(tensors, GgufTensors) and not tensors.architecture.startswith(SCALED_GGUF):
        return tensors.get_float32(GGUF_TABLE)  # asking the architecture would parse the file's vocabulary once more
    module = _table_module(source, what)
    name = GGUF_TABLE if source.gguf_file is not None else _stored_name(module, tensors)
    table_VE = tensors.get_float32(name)
    if tuple(table_VE.shape) != module.shape:
        raise ModelError(
            f"--{what} {source.id}: {name} has shape {tuple(table_VE.shape)}, its configuration says "
            f"{module.shape}; fetch the checkpoint again"
        )
    return table_VE.mul_(module.scale) if module.scale != 1.0 else table_VE


def _stored_name(module: _TableModule, tensors: TensorFiles) -> str:
    """The table's name in the checkpoint, which may differ a little in checkpoints older than the installed
    transformers."""
    wanted, present = f"{module.name}.weight", tensors.names()
    alike = [name for name in present if name.endswith(_TABLE_SUFFIXES)]
    return wanted if wanted in present or len(alike) != 1 else alike[0]


def require_llm(source: ModelSource, what: str = "llm") -> Any | None:
    """Check from its configuration alone that an LLM can be given vectors; returns it built without weights.

    None of a GGUF file, whose configuration takes seconds to read: its architecture is checked by name.

    Args:
        what: the flag that named it, for messages.

    Raises:
        ModelError: no causal LLM of transformers, or one that cannot be given vectors (`require_vectors`).
    """
    if source.gguf_file is None:
        return build_without_weights(source, what)
    tensors = open_tensors(source)
    if isinstance(tensors, GgufTensors):
        _require_gguf(tensors, source, what)
    return None


def _require_gguf(tensors: GgufTensors, source: ModelSource, what: str) -> None:
    for name, reason in UNUSABLE_GGUF.items():
        if name in tensors.architecture:
            raise ModelError(f"--{what} {source.id}: {tensors.architecture} {NO_VECTORS[reason]}")


def build_without_weights(source: ModelSource, what: str) -> Any:
    """The LLM's architecture on the meta device: modules and shapes from its configuration; raises as `require_llm`."""
    settings = {"gguf_file": source.gguf_file} if source.gguf_file is not None else {}
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True, **settings)
        has_encoder = config.is_encoder_decoder  # its decoder alone, when it is made, says no
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except BROKEN_CONFIG as error:
        raise ModelError(
            f"--{what} {source.id}: its architecture is none of transformers' causal LLMs "
            f"({_first_line(error)}); use another LLM"
        ) from error
    if has_encoder:
        raise ModelError(f"--{what} {source.id}: {type(model).__name__} {NO_VECTORS['encoder']}")
    require_vectors(model, f"--{what} {source.id}")
    return model


def _table_module(source: ModelSource, what: str) -> _TableModule:
    """The input embeddings of the architecture, which is built without weights."""
    model = build_without_weights(source, what)
    table = model.get_input_embeddings()
    if not (type(table) is torch.nn.Embedding or hasattr(table, "scalar_embed_scale")):
        raise ModelError(
            f"--{what} {source.id}: a {type(model).__name__} with a {type(table).__name__} for its input "
            "is not supported; use a causal LLM"
        )
    name = next(name for name, module in model.named_modules() if module is table)
    return _TableModule(name, tuple(table.weight.shape), float(getattr(table, "scalar_embed_scale", 1.0)))


def require_vectors(model: Any, what: str) -> None:
    """Check that an LLM can be given vectors in place of tokens, as stage 2 and reading speech out need it.

    Args:
        model: a Hugging Face causal LM, with or without weights. what: names it in the message.

    Raises:
        ModelError: an encoder (BERT), a recurrent state instead of keys and values (Mamba,
            RWKV), embeddings per layer (Gemma 3n), or a forward pass that does not take embeddings.
    """
    config = model.config.get_text_config()
    if getattr(config, "is_decoder", None) is False:
        raise ModelError(f"{what}: {type(model).__name__} {NO_VECTORS['encoder']}")
    if not getattr(config, "num_attention_heads", 0):
        raise ModelError(f"{what}: {type(model).__name__} {NO_VECTORS['state']}")
    if getattr(config, "hidden_size_per_layer_input", 0):
        raise ModelError(f"{what}: {type(model).__name__} {NO_VECTORS['layers']}")
    taken = inspect.signature(model.forward).parameters
    missing = [name for name in NEEDED_INPUTS if name not in taken]
    missing += [] if any(name in taken for name in CACHES) else CACHES[:1]
    if missing:
        raise ModelError(f"{what}: {type(model).__name__} {NO_VECTORS['inputs'].format(', '.join(missing))}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
