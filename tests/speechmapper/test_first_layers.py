"""The first layers of an LLM against the whole model, what is read of it, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.tensors import SafeTensors
from sm_store.errors import ConfigError, ModelError
from speechmapper.first_layers import PREFIXES, first_layers_of
from tests.speechmapper.first_layers_of_families import FAMILIES, LAYERS, ROWS, save_gguf, saved, targets_of, whole

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 9, 30, 2, 47, 11], [8, 1, 3, 3, 20, 6, 7]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: saved(family, tmp_path_factory.mktemp(family.replace(" ", "-"))) for family in FAMILIES}


@torch.no_grad()
def logits_by_hand(model, ids: torch.Tensor, count: int) -> torch.Tensor:
    """The whole model runs; what comes out of layer `count` is caught before the layer after it, or the norm."""
    caught = []
    after = [*model.model.layers, model.model.norm][count]

    def catch(module, args, kwargs):
        caught.append(args[0] if args else kwargs["hidden_states"])

    handle = after.register_forward_pre_hook(catch, with_kwargs=True)
    model(ids)
    handle.remove()
    return model.lm_head(model.model.norm(caught[0]))


@pytest.mark.parametrize("count", [1, 3, LAYERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_equal_the_whole_model_cut_after_them(folders, family, count):
    targets = targets_of(folders[family])
    layers = first_layers_of(None, count, targets, CPU)
    hidden = layers.hidden(torch.from_numpy(targets.table)[IDS])
    expected = logits_by_hand(whole(folders[family]), IDS, count)
    torch.testing.assert_close(hidden @ layers.output_VE.T, expected, rtol=1e-4, atol=1e-4)
    assert layers.count == count


def test_gguf(tmp_path):
    name = save_gguf(tmp_path)
    targets = targets_of(tmp_path, gguf_file=name)
    layers = first_layers_of(str(tmp_path / name), 2, targets, CPU)
    hidden = layers.hidden(torch.from_numpy(targets.table)[IDS])
    expected = logits_by_hand(whole(tmp_path, gguf_file=name), IDS, 2)
    torch.testing.assert_close(hidden @ layers.output_VE.T, expected, rtol=1e-4, atol=1e-4)
    assert layers.count == 2


@pytest.mark.parametrize(
    ("family", "output"), [("llama", "lm_head.weight"), ("tied llama", "model.embed_tokens.weight")]
)
def test_only_the_tensors_that_are_needed_are_read(folders, family, output, monkeypatch):
    targets, read, rows = targets_of(folders[family]), [], []
    get, get_rows = SafeTensors.get, SafeTensors.get_rows
    monkeypatch.setattr(SafeTensors, "get", lambda self, name: read.append(name) or get(self, name))
    monkeypatch.setattr(SafeTensors, "get_rows", lambda self, *which: rows.append(which) or get_rows(self, *which))
    first_layers_of(None, 2, targets, CPU)
    stored = set(load_file(folders[family] / "model.safetensors"))
    wanted = {name for name in stored if name.startswith(("model.layers.0.", "model.layers.1."))}
    assert sorted(read) == sorted({*wanted, "model.norm.weight", output})
    assert rows == [("model.embed_tokens.weight", 0, ROWS)]


def test_files_of_other_layers_may_be_missing(tmp_path):
    folder = saved("llama", tmp_path / "sharded", max_shard_size="12KB")
    targets = targets_of(folder)
    shards = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {shards[name] for name in shards if not name.startswith(tuple(f"model.layers.{n}." for n in (1, 2, 3)))}
    spared = set(shards.values()) - needed
    assert spared
    for name in spared:
        (folder / name).unlink()
    assert first_layers_of(None, 1, targets, CPU).count == 1


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_text_part_of_a_larger_model(folders, tmp_path, prefix):
    folder = shutil.copytree(folders["gemma"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("model.", prefix, 1): tensor for name, tensor in weights.items()}
    save_file({**renamed, "vision_tower.weight": torch.zeros(3)}, folder / "model.safetensors")
    targets = targets_of(folders["gemma"])
    inputs = torch.from_numpy(targets.table)[IDS]
    expected = first_layers_of(None, 2, targets, CPU)
    found = first_layers_of(str(folder), 2, targets, CPU)
    assert torch.equal(found.hidden(inputs), expected.hidden(inputs))
    assert torch.equal(found.output_VE, expected.output_VE)


def test_checkpoints_in_half_precision_are_computed_in_float32_on_a_cpu(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")
    targets = targets_of(folders["llama"])
    inputs = torch.from_numpy(targets.table)[IDS]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = first_layers_of(str(folder), 1, targets, CPU).hidden(inputs)
    assert hidden.dtype == torch.float32
    expected = first_layers_of(None, 1, targets, CPU).hidden(inputs)
    torch.testing.assert_close(hidden, expected, rtol=0.05, atol=0.05)


def test_padding_on_the_right_is_not_seen_and_gradients_reach_the_inputs_alone(folders):
    targets = targets_of(folders["gemma"])
    layers = first_layers_of(None, 2, targets, CPU)
    inputs = torch.from_numpy(targets.table)[IDS].requires_grad_()
    whole_row, cut = layers.hidden(inputs), layers.hidden(inputs[:, :4])
    torch.testing.assert_close(whole_row[:, :4], cut, rtol=1e-5, atol=1e-5)
    whole_row[:, 3].sum().backward()
    assert inputs.grad[:, :4].abs().sum() > 0 and inputs.grad[:, 4:].abs().sum() == 0
    assert not layers.output_VE.requires_grad


def test_another_llm_than_that_of_the_target_set_is_refused(folders, tmp_path):
    other = saved("llama", tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="input embeddings are not those of target set tiny") as error:
        first_layers_of(str(other), 1, targets_of(folders["llama"]), CPU)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="input embeddings are not those"):
        first_layers_of(str(folders["llama"]), 1, targets_of(folders["gemma"]), CPU)


def test_an_llm_that_has_moved_is_named_by_the_setting(folders):
    with pytest.raises(ModelError, match=r"objective\.llm.*/gone: no such preset or folder"):
        first_layers_of(None, 1, targets_of(folders["llama"], llm="/gone"), CPU)
    assert first_layers_of(str(folders["llama"]), 1, targets_of(folders["llama"], llm="/gone"), CPU).count == 1


def test_more_layers_than_it_has(folders):
    with pytest.raises(ConfigError, match=r"objective\.kd_layers 5: .* has 4 layers"):
        first_layers_of(None, LAYERS + 1, targets_of(folders["llama"]), CPU)


def test_other_families_and_quantised_checkpoints_are_refused(folders, tmp_path):
    with quiet_transformers():
        GPT2LMHeadModel(GPT2Config(vocab_size=ROWS, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    targets = targets_of(folders["llama"])
    with pytest.raises(ModelError, match="model_type 'gpt2' is not supported; use an LLM of llama, mistral"):
        first_layers_of(str(tmp_path / "gpt2"), 1, targets, CPU)
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="weights are quantised"):
        first_layers_of(str(folder), 1, targets, CPU)


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": "llama", "num_attention_heads": 0}'])
def test_a_broken_config_is_one_line(folders, tmp_path, text):
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError) as error:
        first_layers_of(str(folder), 1, targets_of(folders["llama"]), CPU)
    assert "\n" not in str(error.value)
