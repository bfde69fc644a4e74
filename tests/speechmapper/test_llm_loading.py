"""Loading an LLM: each setting does what it says, and what cannot be loaded is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.config import LlmConfig
from speechmapper.llm_loading import load_llm
from tests.speechmapper.tiny import save_llm, stage2_config, tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm"))


def load(folder: Path, **settings):
    return load_llm(resolve_model(str(folder), "llm"), CPU, config=LlmConfig(**settings))


@pytest.mark.parametrize(("attention", "expected"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")])
def test_the_attention_is_a_choice(folder, attention, expected):
    assert load(folder, attention=attention).model.config._attn_implementation == expected


def test_an_unknown_attention_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"llm\.attention 'flash': use one of auto, sdpa"):
        stage2_config(llm={"attention": "flash"})


def test_an_llm_that_takes_no_vectors_is_refused(tmp_path):
    model = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="MambaForCausalLM keeps a state instead of keys and values"):
        load_llm(ModelSource("mine", None, tmp_path), CPU)


def test_unusable_models_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-like-it"}))
    with pytest.raises(ModelError, match="cannot be loaded as a causal LLM") as error:
        load_llm(ModelSource("mine", None, tmp_path), CPU)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="LLM dtype 'int3'"):
        load_llm(ModelSource("mine", None, tmp_path), CPU, "int3")
