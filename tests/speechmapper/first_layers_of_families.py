"""Tiny LLMs of each family whose first layers can be used, and target sets of them.

folder = saved("gemma", tmp_path)          4 layers, random weights
targets_of(folder)                         what a store would hold of it: spec and table, scale applied
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from sm_pipeline.models.quiet import quiet_transformers

LAYERS, WIDTH, ROWS, HEAD = 4, 32, 48, 8
SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": None,  # a padding row would be zero
}
GEMMA = {**SIZES, "head_dim": HEAD, "query_pre_attn_scalar": HEAD, "sliding_window": 3, "sliding_window_pattern": 2}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=3),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=HEAD),
    "gemma": Gemma3TextConfig(**GEMMA),
}


def saved(family: str, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A model of the family as `save_pretrained` writes it."""
    torch.manual_seed(seed)
    with quiet_transformers():
        AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(folder, **settings)
    return folder


def whole(folder: Path, **settings: Any) -> PreTrainedModel:
    """The whole model."""
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings).eval()


@dataclass(frozen=True)
class Spec:
    name: str
    llm: str
    revision: str | None
    vocabulary: int
    table_scale: float


@dataclass(frozen=True)
class Targets:
    """What the first layers need of a target set."""

    spec: Spec
    table: np.ndarray


def targets_of(folder: Path, llm: str | None = None, **settings: Any) -> Targets:
    embeddings = whole(folder, **settings).get_input_embeddings()
    table = embeddings(torch.arange(ROWS)).detach().numpy()
    return Targets(Spec("tiny", llm or str(folder), None, ROWS, float(np.square(table).mean())), table)


def save_gguf(folder: Path) -> str:
    """A tied Llama as llama.cpp would store it, without its tokenizer; returns the file's name."""
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(40)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(ROWS)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (ROWS, WIDTH), "output_norm": (WIDTH,)}
    of_layer = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH)}
    of_layer |= {"attn_k": (16, WIDTH), "attn_v": (16, WIDTH), "ffn_gate": (40, WIDTH), "ffn_up": (40, WIDTH)}
    of_layer |= {"ffn_down": (WIDTH, 40)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in of_layer.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return "tiny.gguf"
