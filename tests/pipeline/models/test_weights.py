"""A model's own tensors out of a checkpoint that holds more; encoders' checkpoints: encoders/test_loading.py."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaModel

from sm_pipeline.models.source import ModelSource
from sm_pipeline.models.tensors import SafeTensors
from sm_pipeline.models.weights import build, load_weights
from sm_store.errors import ModelError
from tests.pipeline import llms


@pytest.fixture
def source(tiny_llm) -> ModelSource:
    return ModelSource(str(tiny_llm), None, tiny_llm)


def test_only_the_models_own_tensors_are_read(source, monkeypatch):
    read = []
    get = SafeTensors.get
    monkeypatch.setattr(SafeTensors, "get", lambda self, name: read.append(name) or get(self, name))
    model = build(LlamaModel, llms.llama().config, source)
    assert all(weight.is_meta for weight in model.parameters())
    del model.layers[1:]
    load_weights(model, source, ("", "model."))
    assert sorted(read) == sorted(f"model.{name}" for name in model.state_dict())
    stored = llms.llama().model.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())


def test_weights_that_are_missing_or_do_not_fit(source):
    config = llms.llama().config
    with pytest.raises(ModelError, match="missing"):
        load_weights(build(LlamaModel, config, source), source, ("other.",))
    config.intermediate_size *= 2
    with pytest.raises(ModelError, match=r"weights and config\.json do not fit"):
        load_weights(build(LlamaModel, config, source), source, ("model.",))


def test_a_configuration_of_no_architecture(source):
    config = llms.llama().config
    config.num_attention_heads = 0
    with pytest.raises(ModelError, match="cannot be used") as error:
        build(LlamaModel, config, source)
    assert "\n" not in str(error.value)
