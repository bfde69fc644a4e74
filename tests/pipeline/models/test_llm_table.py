"""Tokenizer and embedding table out of an LLM, and nothing else of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.utils import logging

from sm_pipeline.models.llm_table import load_llm_table, require_llm
from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tensors import GgufTensors
from sm_pipeline.models.tokenizer import load_tokenizer
from sm_store.errors import ModelError
from tests.pipeline import llms


@pytest.fixture(autouse=True)
def no_bars():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def embedding_of(folder, **settings) -> np.ndarray:
    """The truth: the whole model, loaded by transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)
    return model.get_input_embeddings().weight.detach().numpy()


def test_table_and_tokenizer_of_a_folder(tiny_llm):
    llm = load_llm_table(str(tiny_llm))
    assert llm.table_VE.dtype == np.float32
    np.testing.assert_array_equal(llm.table_VE, embedding_of(tiny_llm))
    assert llm.tokenizer("the old dog", add_special_tokens=False)["input_ids"] == [4, 5, 6]
    assert set(llm.tokenizer_files) == {"tokenizer.json", "tokenizer_config.json"}


def test_the_files_make_the_same_tokenizer_again(tiny_llm, tmp_path):
    llm = load_llm_table(str(tiny_llm))
    for name, data in llm.tokenizer_files.items():
        (tmp_path / name).write_bytes(data)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "the bird xyz slept"
    assert again(text)["input_ids"] == llm.tokenizer(text)["input_ids"]
    assert again.pad_token == "<pad>"


def test_of_a_sharded_model_one_tensor_is_read(tmp_path, monkeypatch):
    folder = llms.save(tmp_path / "sharded", max_shard_size="6KB")
    assert len(list(folder.glob("*.safetensors"))) >= 3
    truth = embedding_of(folder)
    opened, read = [], []
    real = safetensors.safe_open

    class Spy:
        def __init__(self, path, **settings):
            opened.append(path.name)
            self._opened = real(path, **settings)

        def __enter__(self):
            self._inside = self._opened.__enter__()
            return self

        def __exit__(self, *details):
            return self._opened.__exit__(*details)

        def get_slice(self, name):
            read.append(name)
            return self._inside.get_slice(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    llm = load_llm_table(str(folder))
    assert read == ["model.embed_tokens.weight"]
    assert len(opened) == 1
    np.testing.assert_array_equal(llm.table_VE, truth)


def test_no_other_weight_file_needs_to_exist(tmp_path):
    folder = llms.save(tmp_path / "sharded", max_shard_size="6KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for path in folder.glob("*.safetensors"):
        if path.name != index["model.embed_tokens.weight"]:
            path.unlink()
    assert load_llm_table(str(folder)).table_VE.shape == (llms.VOCABULARY, llms.WIDTH)


def test_low_precision_tables_are_exact(tmp_path):
    model = llms.llama().to(torch.bfloat16)
    folder = llms.save(tmp_path / "bf16", model)
    expected = model.get_input_embeddings().weight.detach().float().numpy()
    np.testing.assert_array_equal(load_llm_table(str(folder)).table_VE, expected)


def test_another_architecture_by_its_own_names(tmp_path):
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    folder = llms.save(tmp_path / "gpt2", GPT2LMHeadModel(config))
    np.testing.assert_array_equal(load_llm_table(str(folder)).table_VE, embedding_of(folder))


def test_a_scaled_embedding_is_what_the_layers_receive(tmp_path):
    config = Gemma3TextConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).eval()
    folder = llms.save(tmp_path / "gemma", model)
    table = load_llm_table(str(folder)).table_VE
    with torch.no_grad():
        received = model.get_input_embeddings()(torch.arange(40)).numpy()
    np.testing.assert_allclose(table, received, rtol=1e-6)
    assert np.abs(table).max() > 2 * np.abs(embedding_of(folder)).max()


def test_a_table_that_is_not_finite(tmp_path):
    model = llms.llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        load_llm_table(str(llms.save(tmp_path / "nan", model)))


def copy_of(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_folder_without_tokenizer(tiny_llm, tmp_path):
    folder = copy_of(tiny_llm, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="tokenizer cannot be loaded") as caught:
        load_llm_table(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["{}", '{"model_type": "no-such-model"}', '{"model_type": "whisper"}', "{"])
def test_a_folder_that_is_no_llm(tiny_llm, tmp_path, config):
    folder = copy_of(tiny_llm, tmp_path / "m")
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError):
        load_llm_table(str(folder))


def test_code_in_a_checkpoint_is_never_run(tiny_llm, tmp_path):
    folder = copy_of(tiny_llm, tmp_path / "m")
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError):
        load_llm_table(str(folder))
    assert not ran.exists()


def test_the_real_smollm2_table_and_tokenizer(tmp_path):
    """GGUF: equal to what transformers makes of the whole model; the model itself is not needed."""
    llm = load_llm_table("smollm2-135m")
    assert llm.table_VE.shape == (49152, 576)
    ids = llm.tokenizer("he hoped", add_special_tokens=False)["input_ids"]
    assert ids == [255, 14762]
    for name, data in llm.tokenizer_files.items():
        (tmp_path / name).write_bytes(data)
    source = resolve_model(str(_with_config(tmp_path)), "llm")
    assert load_tokenizer(source)("he hoped", add_special_tokens=False)["input_ids"] == ids
    preset = resolve_model("smollm2-135m", "llm")
    np.testing.assert_array_equal(llm.table_VE, embedding_of(preset.folder, gguf_file=preset.gguf_file))


def _with_config(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 16}
PER_LAYER = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 40, "num_kv_shared_layers": 0}


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    [
        ("Mamba", {**SIZES, "state_size": 4}, "MambaForCausalLM keeps a state instead of keys and values"),
        ("Rwkv", {**SIZES, "attention_hidden_size": 16}, "RwkvForCausalLM keeps a state instead of keys and values"),
        ("Gemma3nText", {**SIZES, **ATTENTION, **PER_LAYER}, "gives each layer an embedding of the token ids"),
        ("Bart", {"vocab_size": 40, "d_model": 16}, "BartForCausalLM is an encoder or has one"),
        ("T5", {"vocab_size": 40, "d_model": 16}, "is none of transformers' causal LLMs"),
        ("Bert", {**SIZES, "num_attention_heads": 2}, "BertLMHeadModel is an encoder or has one"),
        ("CpmAnt", {**SIZES, "num_attention_heads": 2}, "CpmAntForCausalLM does not take inputs_embeds"),
        ("OpenAIGPT", {"vocab_size": 40, "n_embd": 16, "n_head": 2}, "does not take past_key_values"),
    ],
)
def test_an_llm_that_takes_no_vectors_is_refused_before_its_weights_are_read(tmp_path, name, sizes, reason):
    """Stage 1 could be trained on its table, but stage 2 and transcription could not run it."""
    folder = tmp_path / "llm"
    getattr(transformers, f"{name}Config")(**sizes).save_pretrained(folder)
    with pytest.raises(ModelError, match=f"^--llm .*: .*{reason}.*; use (another|a causal) LLM$") as caught:
        require_llm(resolve_model(str(folder), "llm", weights=False))
    assert "\n" not in str(caught.value)
    llms.tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(safetensors.torch.save({"embed_tokens.weight": torch.zeros(40, 16)}))
    with pytest.raises(ModelError, match=reason):
        load_llm_table(str(folder))


def test_of_a_causal_llm_the_configuration_is_enough(tiny_llm, tmp_path):
    shutil.copy(tiny_llm / "config.json", tmp_path)
    model = require_llm(resolve_model(str(tmp_path), "llm", weights=False))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert require_llm(resolve_model("smollm2-135m", "llm", weights=False)) is None


@pytest.mark.parametrize("architecture", ["mamba2", "t5encoder", "nomic-bert"])
def test_a_gguf_that_takes_no_vectors_is_refused(tmp_path, monkeypatch, architecture):
    monkeypatch.setattr(GgufTensors, "__init__", lambda self, path: setattr(self, "architecture", architecture))
    (tmp_path / "llm.gguf").touch()
    with pytest.raises(ModelError, match=rf"^--llm .*: {architecture} (keeps a state|is an encoder)"):
        require_llm(resolve_model(str(tmp_path / "llm.gguf"), "llm", weights=False))
