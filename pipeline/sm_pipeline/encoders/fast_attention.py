"""Self-attention of the SeamlessM4T-v2 and w2v-BERT 2.0 Conformers, with relative positions at a fraction of the cost.

Hugging Face looks up an embedding for each pair of frames, (L, L, d), and multiplies it with every query. There are
only left + right + 1 = 73 different ones, since distances beyond 64 back and 8 ahead count as those:

    scores (L, 73) = query @ embeddings.T          L = 4, distances -2..1 kept:
    table  (L, 2L - 1): a query's score by distance, -(L - 1) to L - 1        [s0 s0 | s0 s1 s2 s3 | s3]
    bias   (L, L): row l is its table row from column L - 1 - l on: the same memory, read with other strides

The same numbers in the same order go to the same attention function, so on a CPU in float32 the bits are the same.
There it is called for a few heads of one row at a time: the L x L biases of a batch are hundreds of megabytes, which
would go to memory and back several times.
(Under a dozen frames matrix products take other paths; so few are looked up as Hugging Face does it. w2v-BERT
multiplies by 1 / sqrt(d) where this divides by sqrt(d): the same for its heads of d = 64, else a last bit.)

Shapes: B batch, H heads, L frames, d width of a head, P = left + right + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import (
    SeamlessM4Tv2ConformerSelfAttention,
    eager_attention_forward,
)
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

_FEW = 16  # frames
_CACHED = 1 << 20  # attention scores
_SLOW = (SeamlessM4Tv2ConformerSelfAttention, Wav2Vec2BertSelfAttention)


class FastSelfAttention(nn.Module):
    """Takes the place of a Conformer layer's `self_attn`, with that module's own weights."""

    def __init__(self, slow: Any) -> None:
        super().__init__()
        self.config = slow.config
        self.is_causal = False
        self.num_heads, self.head_size, self.scaling = slow.num_heads, slow.head_size, slow.scaling
        self.linear_q, self.linear_k, self.linear_v = slow.linear_q, slow.linear_k, slow.linear_v
        self.linear_out = slow.linear_out
        self.distance_embedding = slow.distance_embedding
        self.left, self.right = slow.left_max_position_embeddings, slow.right_max_position_embeddings

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As Hugging Face's: (B, L, D) and a mask, (B or 1, 1, L, L), to (B, L, D); there are no attention weights."""
        batch, length, width = hidden_states.shape
        heads = (batch, length, self.num_heads, self.head_size)
        query, key, value = (
            linear(hidden_states).view(heads).transpose(1, 2)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        embeddings = self.distance_embedding.weight.to(query.dtype)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output = query.new_empty(heads)
        for row, some in _pieces(batch, self.num_heads, length, query.device):
            mask = attention_mask.expand(batch, -1, -1, -1)[row] if attention_mask is not None else None
            part = query[row, some]
            output[row, :, some], _ = attend(
                self, part, key[row, some], value[row, some], mask,
                dropout=0.0, scaling=self.scaling, **options,
                position_bias=relative_bias(part, embeddings, self.left, self.right),
            )  # fmt: skip
        return self.linear_out(output.reshape(batch, length, width)), None


def _pieces(batch: int, heads: int, length: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Rows and heads of a batch to attend to at once: on a CPU as much as the caches hold."""
    if device.type != "cpu" or batch * heads * length * length <= _CACHED:
        yield slice(None), slice(None)
        return
    at_once = max(_CACHED // (length * length), 1)
    for row in range(batch):
        for head in range(0, heads, at_once):
            yield slice(row, row + 1), slice(head, head + at_once)


def relative_bias(query_BHLd: torch.Tensor, embeddings_Pd: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """What relative positions add to the attention scores, (B, H, L, L).

    Args:
        embeddings_Pd: of the distances -left to right, clamped beyond.
    """
    batch, heads, length, size = query_BHLd.shape
    if length < _FEW:
        places = torch.arange(length, device=query_BHLd.device)
        distances_LL = (places - places.unsqueeze(1)).clamp(-left, right) + left
        return torch.einsum("bhld,lrd->bhlr", query_BHLd, embeddings_Pd[distances_LL]) / math.sqrt(size)
    scores_BHLP = torch.matmul(query_BHLd, embeddings_Pd.T) / math.sqrt(size)
    reach = length - 1
    pieces = [scores_BHLP[..., max(left - reach, 0) : left + min(reach, right) + 1]]
    if reach > left:
        pieces.insert(0, scores_BHLP[..., :1].expand(-1, -1, -1, reach - left))
    if reach > right:
        pieces.append(scores_BHLP[..., -1:].expand(-1, -1, -1, reach - right))
    table = torch.cat(pieces, dim=-1)
    columns = 2 * length - 1
    strides = (heads * length * columns, length * columns, columns - 1, 1)
    return table.as_strided((batch, heads, length, length), strides, reach)


def use_fast_attention(layers: nn.ModuleList) -> None:
    """Put it into every Conformer layer that has clamped relative positions."""
    for layer in layers:
        slow = layer.self_attn
        if isinstance(slow, _SLOW) and slow.position_embeddings_type == "relative_key":
            layer.self_attn = FastSelfAttention(slow).train(slow.training)
