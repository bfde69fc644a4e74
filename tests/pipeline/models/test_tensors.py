"""Checkpoints: single tensors out of safetensors and GGUF files, and clear words about broken ones."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file

from sm_pipeline.models import tensors as tensors_module
from sm_pipeline.models.tensors import open_checkpoint
from sm_store.errors import ModelError
from tests.pipeline import llms


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A real model in at least three files."""
    folder = llms.save(tmp_path_factory.mktemp("sharded"), max_shard_size="6KB")
    assert len(list(folder.glob("*.safetensors"))) >= 3
    return folder


def test_one_file(tiny_llm):
    tensors, model = open_checkpoint(tiny_llm, None), llms.llama()
    stored = model.state_dict()
    assert tensors.names() == sorted(stored)
    for name in tensors.names():
        assert torch.equal(tensors.get(name), stored[name])


def test_shards(sharded):
    tensors, stored = open_checkpoint(sharded, None), llms.llama().state_dict()
    assert tensors.names() == sorted(stored)
    for name, tensor in stored.items():
        assert torch.equal(tensors.get(name), tensor)


def test_only_the_file_of_the_tensor_is_opened(sharded, monkeypatch):
    opened = []
    real = safetensors.safe_open

    def spy(path, **settings):
        opened.append(path.name)
        return real(path, **settings)

    monkeypatch.setattr(safetensors, "safe_open", spy)
    tensors = open_checkpoint(sharded, None)
    tensors.names()
    assert opened == []
    tensors.get("model.norm.weight")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert opened == [index["weight_map"]["model.norm.weight"]]


def test_dtypes_stay(tmp_path):
    save_file({"a": torch.arange(4).to(torch.bfloat16)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path, None).get("a").dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(10, 3), (7,), (1, 2, 2)])
def test_float32_is_read_in_pieces(tmp_path, monkeypatch, dtype, shape):
    values = torch.randn(shape).to(dtype)
    save_file({"a": values}, tmp_path / "model.safetensors")
    monkeypatch.setattr(tensors_module, "PIECE_BYTES", 36)
    found = open_checkpoint(tmp_path, None).get_float32("a")
    assert found.dtype == torch.float32 and torch.equal(found, values.to(torch.float32))


def test_some_rows(tiny_llm):
    tensors, name = open_checkpoint(tiny_llm, None), "model.embed_tokens.weight"
    assert torch.equal(tensors.get_rows(name, 3, 7), tensors.get(name)[3:7])


def test_unknown_tensors(tiny_llm):
    with pytest.raises(ModelError, match=r"no tensor 'nope'.*incomplete"):
        open_checkpoint(tiny_llm, None).get("nope")


def test_no_weights_at_all(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02would run code")
    with pytest.raises(ModelError, match="only safetensors and GGUF"):
        open_checkpoint(tmp_path, None)


@pytest.mark.parametrize("damage", ["truncate", "garbage", "missing"])
def test_broken_shards(sharded, tmp_path, damage):
    for path in sharded.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = tmp_path / index["weight_map"]["model.embed_tokens.weight"]
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:100] if damage == "truncate" else b"\xff" * 200)
    tensors = open_checkpoint(tmp_path, None)
    with pytest.raises(ModelError, match=shard.name):
        tensors.get("model.embed_tokens.weight")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 64])
def test_broken_single_files(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="not a safetensors file"):
        open_checkpoint(tmp_path, None)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../outside.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": ' + "[" * 100_000,
    ],
)
def test_broken_indexes(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index\.json"):
        open_checkpoint(tmp_path, None)


@pytest.fixture
def gguf_folder(tmp_path):
    """A GGUF file with a float and a quantised tensor."""
    values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("exact", values)
    quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path, values


def test_gguf(gguf_folder):
    folder, values = gguf_folder
    tensors = open_checkpoint(folder, "m.gguf")
    assert torch.equal(tensors.get_rows("token_embd.weight", 1, 2), tensors.get("token_embd.weight")[1:2])
    assert tensors.names() == ["exact", "token_embd.weight"]
    np.testing.assert_array_equal(tensors.get("exact").numpy(), values)
    near = tensors.get("token_embd.weight")
    assert (near.dtype, tuple(near.shape)) == (torch.float32, (8, 64))
    np.testing.assert_allclose(near.numpy(), values, atol=0.02)
    with pytest.raises(ModelError, match=r"m\.gguf: no tensor 'nope'"):
        tensors.get("nope")


@pytest.mark.parametrize("keep", [0, 3, 60])
def test_broken_gguf(gguf_folder, keep):
    folder, _ = gguf_folder
    path = folder / "m.gguf"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="not a readable GGUF"):
        open_checkpoint(folder, "m.gguf")
