"""Quantised LLMs: embeddings to the bit, gradients that point the same way before and after any other forward."""

from __future__ import annotations

import sys

import pytest
import torch

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.config import LlmConfig
from speechmapper.llm_loading import load_llm
from tests.speechmapper.test_llm import as_vectors, asr_prompts
from tests.speechmapper.tiny import save_llm, stage2_config

CPU = torch.device("cpu")
QUANTIZED = ("4bit", "8bit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm"))


def load(folder, quantize="none", dtype="float32", **settings):
    config = LlmConfig(quantize=quantize, **settings)
    return load_llm(resolve_model(str(folder), "llm"), CPU, dtype, config=config)


def gradient(llm):
    """Of the loss with respect to the vectors, float32."""
    vectors_BUE, lengths_B = as_vectors(llm)
    vectors_BUE = vectors_BUE.nan_to_num().detach().requires_grad_()
    llm.answer_loss(vectors_BUE, lengths_B, asr_prompts(llm)).backward()
    return vectors_BUE.grad.float()


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_embeddings_and_output_rows_are_those_of_the_checkpoint(folder, quantize):
    whole, small = load(folder), load(folder, quantize)
    assert small.table_sha256(64) == whole.table_sha256(64)
    assert torch.equal(small.model.lm_head.weight, whole.model.lm_head.weight)
    assert type(small.model.lm_head) is torch.nn.Linear
    assert small.model.get_memory_footprint() < whole.model.get_memory_footprint()
    assert small.model.num_parameters() == whole.model.num_parameters()
    assert not any(weight.requires_grad for weight in small.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", QUANTIZED)
def test_gradients_are_those_of_the_rounded_weights_before_and_after_generation(folder, quantize, dtype):
    """On a CPU bitsandbytes packs 4-bit weights anew in the first forward without gradients, unless it is kept off."""
    llm, rounded = load(folder, quantize, dtype), load(folder, quantize, dtype)
    rounded.model = rounded.model.dequantize()
    expected = gradient(rounded)
    before = gradient(llm)
    vectors_BUE, lengths_B = as_vectors(llm)
    llm.generate(vectors_BUE.nan_to_num(), lengths_B, asr_prompts(llm), max_new_tokens=3)
    with torch.no_grad():
        llm.answer_loss(vectors_BUE.nan_to_num(), lengths_B, asr_prompts(llm))
    after = gradient(llm)
    assert torch.equal(before, after)
    assert torch.cosine_similarity(after.flatten(), expected.flatten(), dim=0) > (0.99 if dtype == "float32" else 0.9)


def test_the_identity_has_the_quantisation_only_where_there_is_one(folder):
    assert load(folder, "8bit").identity() == {"id": str(folder), "revision": None, "quantize": "8bit"}
    assert load(folder).identity() == {"id": str(folder), "revision": None}


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_a_missing_package_names_its_extra(folder, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=rf"{missing} is not installed; run `pip install .speechmapper\["):
        load(folder, "4bit")


def test_a_gguf_is_not_quantised_again(folder):
    with pytest.raises(ModelError, match=r"llm\.gguf cannot be quantised again to 4bit; name a folder with safeten"):
        load_llm(ModelSource("mine", None, folder, "llm.gguf"), CPU, config=LlmConfig(quantize="4bit"))


def test_an_unknown_quantisation_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"llm\.quantize 'int3': use none, 4bit, 8bit"):
        stage2_config(llm={"quantize": "int3"})
