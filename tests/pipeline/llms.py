"""Tiny LLMs as model folders: a word tokenizer and a random Llama."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

WORDS = [
    "the",
    "old",
    "dog",
    "a",
    "bird",
    "sang",
    "by",
    "river",
    "and",
    "we",
    "slept",
    "it",
    "was",
    "late",
    "nobody",
    "came",
    "end",
    "or",
    "so",
]
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
VOCABULARY = 40  # rows of the table; the last ones belong to no token
WIDTH = 16


def tokenizer(**settings) -> PreTrainedTokenizerFast:
    """One token a word."""
    numbered = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(numbered, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | settings
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def llama(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def save(folder: Path, model=None, words=None, **settings) -> Path:
    """Write a model folder as `save_pretrained` does; returns it."""
    logging.disable_progress_bar()
    try:
        (model if model is not None else llama()).save_pretrained(folder, **settings)
        (words if words is not None else tokenizer()).save_pretrained(folder)
    finally:
        logging.enable_progress_bar()
    return folder
