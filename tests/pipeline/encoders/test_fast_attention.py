"""Relative positions against Hugging Face's own attention: the same bits on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import SeamlessM4Tv2Config, Wav2Vec2BertConfig, Wav2Vec2BertModel
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from sm_pipeline.encoders import fast_attention
from sm_pipeline.encoders.fast_attention import FastSelfAttention, relative_bias, use_fast_attention
from sm_pipeline.models.source import TINY_SEAMLESS


def looked_up(query, embeddings, left, right):
    """One pair of frames at a time, as the definition has it."""
    batch, heads, length, size = query.shape
    bias = torch.zeros(batch, heads, length, length, dtype=query.dtype)
    for row in range(length):
        for column in range(length):
            distance = min(max(column - row, -left), right)
            bias[:, :, row, column] = (query[:, :, row] * embeddings[distance + left]).sum(-1) / size**0.5
    return bias


@pytest.mark.parametrize("length", [1, 2, 3, 9, 15, 16, 17, 20, 40])
@pytest.mark.parametrize(("left", "right"), [(2, 1), (64, 8), (0, 0), (5, 30), (19, 19)])
def test_bias_of_every_pair(length, left, right):
    torch.manual_seed(length)
    query = torch.randn(2, 3, length, 8, dtype=torch.float64)
    embeddings = torch.randn(left + right + 1, 8, dtype=torch.float64)
    expected = looked_up(query, embeddings, left, right)
    torch.testing.assert_close(relative_bias(query, embeddings, left, right), expected, rtol=0, atol=1e-12)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def encoders(request):
    """Hugging Face's Conformer and ours over the same weights; heads of 64 as in the large model."""
    torch.manual_seed(0)
    config = SeamlessM4Tv2Config(**TINY_SEAMLESS, add_adapter=False)
    config._attn_implementation = request.param
    slow = SeamlessM4Tv2SpeechEncoder(config).eval().encoder
    fast = copy.deepcopy(slow)
    use_fast_attention(fast.layers)
    assert all(isinstance(layer.self_attn, FastSelfAttention) for layer in fast.layers)
    return slow, fast


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 40, 64, 65, 66, 73, 74, 130, 333])
@pytest.mark.parametrize("batch", [1, 3])
@torch.inference_mode()
def test_the_same_bits(encoders, batch, length):
    slow, fast = encoders
    torch.manual_seed(length)
    hidden = torch.randn(batch, length, TINY_SEAMLESS["hidden_size"])
    mask = torch.ones(batch, length, dtype=torch.bool)
    if batch > 1:
        mask[1, max(length // 2, 1) :] = False
    assert torch.equal(slow(hidden, attention_mask=mask), fast(hidden, attention_mask=mask))
    assert torch.equal(slow(hidden), fast(hidden))


@pytest.mark.parametrize("heads_at_once", [1, 2, 3])
@pytest.mark.parametrize("length", [100, 257, 777, 1030])
@torch.inference_mode()
def test_the_same_bits_in_pieces(encoders, length, heads_at_once, monkeypatch):
    """Long batches are attended to piece by piece."""
    slow, fast = encoders
    monkeypatch.setattr(fast_attention, "_CACHED", heads_at_once * length * length)
    torch.manual_seed(length)
    hidden = torch.randn(2, length, TINY_SEAMLESS["hidden_size"])
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, length // 2 :] = False
    assert torch.equal(slow(hidden, attention_mask=mask), fast(hidden, attention_mask=mask))
    assert torch.equal(slow(hidden), fast(hidden))


@pytest.mark.parametrize("length", [1, 15, 16, 73, 130])
@torch.inference_mode()
def test_the_same_bits_in_w2v_bert(length):
    torch.manual_seed(length)
    config = Wav2Vec2BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    slow = Wav2Vec2BertModel(config).eval().encoder
    fast = copy.deepcopy(slow)
    use_fast_attention(fast.layers)
    assert all(isinstance(layer.self_attn, FastSelfAttention) for layer in fast.layers)
    hidden = torch.randn(2, length, 128)
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, max(length // 2, 1) :] = False
    expected = slow(hidden, attention_mask=mask).last_hidden_state
    assert torch.equal(expected, fast(hidden, attention_mask=mask).last_hidden_state)


def test_half_precision_runs_and_is_near(encoders):
    slow, fast = (copy.deepcopy(each).to(torch.bfloat16) for each in encoders)
    hidden = torch.randn(2, 90, TINY_SEAMLESS["hidden_size"], dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(slow(hidden), fast(hidden), rtol=0, atol=0.1)


def test_layers_of_other_positions_are_left_alone():
    config = SeamlessM4Tv2Config(**TINY_SEAMLESS, add_adapter=False, position_embeddings_type="none")
    layers = SeamlessM4Tv2SpeechEncoder(config).encoder.layers
    use_fast_attention(layers)
    assert not any(isinstance(layer.self_attn, FastSelfAttention) for layer in layers)
