"""FLOP of a frozen LLM: what torch counts in the same loss and gradient."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from sm_pipeline.models.source import ModelSource
from speechmapper import flop
from speechmapper.flop import FlopSizes, peak_flop
from speechmapper.llm import FrozenLLM
from tests.speechmapper.test_llm import GROUPED, as_vectors, asr_prompts, build
from tests.speechmapper.tiny import tokenizer


@pytest.mark.parametrize("name", ["rotary positions", "learned positions"])
def test_arithmetic_agrees_with_torchs_count(name):
    model = build(name)
    model.set_attn_implementation("eager")  # torch counts its matrix products
    llm = FrozenLLM(model, tokenizer(), ModelSource("tiny", None, Path()))
    vectors_BUE, lengths_B = as_vectors(llm)
    prompts = asr_prompts(llm)
    with torch.no_grad():
        llm.answer_loss(vectors_BUE, lengths_B, prompts)  # computes the start
    assert llm.take_flop() == 0
    with FlopCounterMode(display=False) as counter:
        llm.answer_loss(vectors_BUE.nan_to_num().requires_grad_(), lengths_B, prompts).backward()
    assert llm.take_flop() == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert llm.take_flop() == 0


def test_an_llm_with_experts_is_not_counted():
    config = transformers.MixtralConfig(**GROUPED, num_local_experts=2)
    assert FlopSizes.of(transformers.MixtralForCausalLM(config)) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("Tesla V100-SXM2-32GB", 125e12), ("X", None)],
)
def test_the_peak_is_that_of_the_gpu_or_not_known(monkeypatch, name, peak):
    monkeypatch.setattr(flop, "torch", SimpleNamespace(cuda=SimpleNamespace(get_device_name=lambda _device: name)))
    assert peak_flop(torch.device("cuda", 0)) == peak
    assert peak_flop(torch.device("cpu")) is None
