"""A tiny judge with the words yes and no, and answers to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.source import ModelSource
from speechmapper.llm import FrozenLLM
from tests.speechmapper.tiny import llama, tokenizer

LINES: list[dict[str, Any]] = [
    {"id": "a", "question": "who slept", "reference": "the dog", "output": "the dog"},
    {"id": "b", "question": "who {sang}", "reference": "a bird", "output": "the house {answer}"},
    {"id": "c", "question": "what colour", "reference": "red", "output": ""},
    {"id": "d", "question": "what colour", "reference": "Red ", "output": "green"},
]


def judge_tokenizer() -> Any:
    made = tokenizer()
    made.add_tokens(["yes", "no"])
    return made


def yes_no_llm() -> FrozenLLM:
    return FrozenLLM(llama(vocabulary=80), judge_tokenizer(), ModelSource("tiny", None, Path()))


def save_judge(folder: Path, seed: int = 0) -> Path:
    with quiet_transformers():
        llama(seed, vocabulary=80).save_pretrained(folder)
    judge_tokenizer().save_pretrained(folder)
    return folder
