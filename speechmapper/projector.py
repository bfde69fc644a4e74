"""The projector: speech features at 25 Hz in, vectors in an LLM's input-embedding space at 6.25 Hz out.

    features (B, T, 1024)
      block 1: Conv1d k=6 s=2 -> GELU -> + positions -> 6 Transformer layers at 1024 -> Linear to 2048    (B, T/2, 2048)
      block 2: Conv1d k=6 s=2 -> GELU -> + positions -> 6 Transformer layers at 2048 -> Linear to 4096    (B, T/4, 4096)
      output:  Linear -> GELU -> Linear                                                                  (B, U, E)

Sizes, kernels and strides are from the SpeechMapper paper (arXiv 2601.20417, section 2); the FFN width of 2048 and
the two output linears follow from its 277 M parameters. Padded frames are zeroed before each convolution and masked
in attention, so an utterance's vectors do not depend on its batch mates.

Not published are norms and dropout. Our default is pre-norm layers without a final norm before a block's linear and
without dropout on the sum of convolution and positions; both halved the speed of learning (docs/objectives.md).
Projectors saved before these two were choices have both, and load with both:

    Projector(ProjectorConfig()).config.norm_before_linear                       False
    Projector.from_pretrained("a projector saved before").config.norm_before_linear       True

Shapes: B batch, T feature frames, U projector vectors, D encoder width, E LLM width, C channels of one block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from sm_store.errors import ConfigError
from sm_store.geometry import Geometry

NORM_ORDERS = ("pre", "post")
READOUTS = ("nearest", "ctc", "cif")
HEADS = {
    "nearest": ("vectors", "segments", "rows", "tokens"),
    "ctc": ("vectors", "segments", "rows", "tokens"),
    "cif": ("cif", "rows", "tokens"),
}
OWN_HEAD = {"nearest": "vectors", "ctc": "rows", "cif": "cif"}  # what each readout is best given as
BLANKS = ("drop", "first")
PER_BLOCK = ("block_sizes", "block_outputs", "num_layers", "kernel_sizes", "strides", "paddings")
# What a config.json means that lacks these names, because it was written before they were choices.
WHERE_ABSENT = {"norm_before_linear": True, "dropout_after_positions": True, "trim": False}


class ProjectorConfig(PreTrainedConfig):
    """Sizes of a `Projector`; without arguments the paper's 277,031,936 parameters.

    Args:
        input_size: width D of the features.
        block_sizes: width of each block's convolution and Transformer.
        block_outputs: width each block's closing linear maps to.
        output_size: width E of the LLM's input embeddings.
        num_layers: Transformer layers of each block.
        num_heads: attention heads (not published; 8).
        ffn_size: inner width of the feed-forward layers.
        kernel_sizes, strides, paddings: of each block's convolution; paddings default to (kernel - 2) / 2 = 2.
        dropout: on residual branches; attention_dropout: on attention weights.
        norm_order: `pre` or `post`.
        norm_before_linear: whether a pre-norm block ends with a norm, without gain and bias, before its linear (our
            default is no, measured: docs/objectives.md).
        dropout_after_positions: whether dropout is also applied to the sum of convolution and positions (our default
            is no, measured: docs/objectives.md).
        output_scale: the vectors are multiplied by this; set to the embedding table's RMS, they start at the
            scale of their targets (our own switch; 1 is the paper's).
        readout: how vectors become tokens: `nearest` row each; `ctc`: the nearest of rows and a learned blank,
            repeats merged and blanks dropped; `cif`: vectors pooled by learned weights, which fire a token whenever
            their sum passes 1, and the nearest row of each.
        head: what an LLM is given for the vectors (speechmapper/heads): `vectors`, `segments`, `rows`, `tokens` or
            `cif`.
        ctc_temperature: of the softmax over rows that `ctc` is trained with: divides the squared distance over the
            table's mean squared row norm. learn_temperature: whether it is a parameter that starts there.
        rows_temperature: of the softmax that `rows` weighs rows by. Where the other is learned, their ratio stays.
        rows_top_k: how many rows `rows` mixes, the nearest ones; 0: all.
        blanks: of a `ctc` readout's blank positions: `drop`, or `first`: their mean as one vector before the others.
        trim: by head `vectors` of readout `nearest`, give the LLM only the vectors before the first that is nearest to
            the pad token's row, and at least one.
        trained_for: what the training run recorded about its store, target set and encoder (JSON values).
    """

    model_type = "speechmapper_projector"

    def __init__(
        self,
        input_size: int = 1024,
        block_sizes: tuple[int, ...] | list[int] = (1024, 2048),
        block_outputs: tuple[int, ...] | list[int] = (2048, 4096),
        output_size: int = 4096,
        num_layers: tuple[int, ...] | list[int] = (6, 6),
        num_heads: int = 8,
        ffn_size: int = 2048,
        kernel_sizes: tuple[int, ...] | list[int] = (6, 6),
        strides: tuple[int, ...] | list[int] = (2, 2),
        paddings: tuple[int, ...] | list[int] = (2, 2),
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        norm_order: str = "pre",
        norm_before_linear: bool = False,
        dropout_after_positions: bool = False,
        output_scale: float = 1.0,
        readout: str = "nearest",
        head: str = "vectors",
        ctc_temperature: float = 0.1,
        learn_temperature: bool = False,
        rows_temperature: float = 0.05,
        rows_top_k: int = 0,
        blanks: str = "drop",
        trim: bool = False,
        trained_for: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.input_size = input_size
        self.block_sizes = list(block_sizes)
        self.block_outputs = list(block_outputs)
        self.output_size = output_size
        self.num_layers = list(num_layers)
        self.num_heads = num_heads
        self.ffn_size = ffn_size
        self.kernel_sizes = list(kernel_sizes)
        self.strides = list(strides)
        self.paddings = list(paddings)
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.norm_order = norm_order
        self.norm_before_linear = norm_before_linear
        self.dropout_after_positions = dropout_after_positions
        self.output_scale = output_scale
        self.readout = readout
        self.head = head
        self.ctc_temperature = ctc_temperature
        self.rows_temperature = rows_temperature
        self.learn_temperature = learn_temperature
        self.rows_top_k = rows_top_k
        self.blanks = blanks
        self.trim = trim
        self.trained_for = trained_for or {}
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        blocks = len(self.block_sizes)
        for name in ("input_size", "output_size", "num_heads", "ffn_size", *PER_BLOCK):
            given = getattr(self, name)
            least = 0 if name in ("paddings", "num_layers") else 1
            if min(given if isinstance(given, list) else [given], default=least) < least:
                raise ValueError(f"{name} {given}: give {least} or more")
        for name in PER_BLOCK:
            if len(getattr(self, name)) != blocks:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {blocks} block_sizes")
        for size in self.block_sizes:
            if size % self.num_heads or size % 2:
                raise ValueError(f"block size {size} is not an even multiple of num_heads {self.num_heads}")
        if self.readout not in READOUTS:
            raise ValueError(f"readout {self.readout!r}: use one of {', '.join(READOUTS)}")
        if self.norm_order not in NORM_ORDERS:
            raise ValueError(f"norm_order {self.norm_order!r}: use one of {', '.join(NORM_ORDERS)}")
        self._check_head()

    def _check_head(self) -> None:
        if self.head not in HEADS[self.readout]:
            raise ValueError(
                f"head {self.head!r}: with readout {self.readout}, use one of {', '.join(HEADS[self.readout])}"
            )
        for name in ("ctc_temperature", "rows_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)}: give a number above 0")
        if self.rows_top_k < 0:
            raise ValueError(f"rows_top_k {self.rows_top_k}: give 0 or more")
        if self.blanks not in BLANKS:
            raise ValueError(f"blanks {self.blanks!r}: use one of {', '.join(BLANKS)}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The config of a `config.json`; `WHERE_ABSENT` says what an older one means by the names that it lacks."""
        return super().from_dict({**WHERE_ABSENT, **config_dict}, **kwargs)

    @property
    def geometry(self) -> Geometry:
        """Frames to vectors."""
        return Geometry(tuple(self.kernel_sizes), tuple(self.strides), tuple(self.paddings))


@dataclass(frozen=True, slots=True)
class Projected:
    """The projector's output for a padded batch.

    Attributes:
        vectors_BUE: zero beyond each utterance's length; vectors_B: their lengths (B,), int64.
        hidden_BTC: output of block 1, undefined beyond its own lengths: for auxiliary losses.
        blank_E: the projector's blank, where it is read as CTC.
        temperature: of CTC's softmax over rows, a scalar; None: not learned, the config's.
        firing_BU: where it is read as CIF, each vector's weight from 0 to 1, zero beyond each length.
    """

    vectors_BUE: torch.Tensor
    vectors_B: torch.Tensor
    hidden_BTC: torch.Tensor
    blank_E: torch.Tensor | None = None
    temperature: torch.Tensor | None = None
    firing_BU: torch.Tensor | None = None

    def rows(self, chosen: Sequence[int]) -> Projected:
        """These utterances of the batch, in this order; the same one may be there several times."""
        index = torch.tensor(chosen, dtype=torch.long, device=self.vectors_B.device)
        return replace(
            self,
            vectors_BUE=self.vectors_BUE[index],
            vectors_B=self.vectors_B[index],
            hidden_BTC=self.hidden_BTC[index],
            firing_BU=None if self.firing_BU is None else self.firing_BU[index],
        )


class TransformerLayer(nn.Module):
    """Self-attention and a ReLU feed-forward layer with residuals (Vaswani et al. 2017), pre- or post-norm."""

    def __init__(self, size: int, config: ProjectorConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.attention_dropout = config.attention_dropout
        self.pre_norm = config.norm_order == "pre"
        self.attention_norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attention_output = nn.Linear(size, size)
        self.ffn_norm = nn.LayerNorm(size)
        self.ffn_input = nn.Linear(size, config.ffn_size)
        self.ffn_output = nn.Linear(config.ffn_size, size)

    def forward(self, hidden_BTC: torch.Tensor, attend_B11T: torch.Tensor) -> torch.Tensor:
        if self.pre_norm:
            hidden_BTC = hidden_BTC + self._attention(self.attention_norm(hidden_BTC), attend_B11T)
            return hidden_BTC + self._ffn(self.ffn_norm(hidden_BTC))
        hidden_BTC = self.attention_norm(hidden_BTC + self._attention(hidden_BTC, attend_B11T))
        return self.ffn_norm(hidden_BTC + self._ffn(hidden_BTC))

    def _attention(self, hidden_BTC: torch.Tensor, attend_B11T: torch.Tensor) -> torch.Tensor:
        batch, frames, size = hidden_BTC.shape
        joint = self.query_key_value(hidden_BTC).view(batch, frames, 3, self.num_heads, size // self.num_heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend_B11T, dropout_p=dropout)
        output = self.attention_output(mixed.transpose(1, 2).reshape(batch, frames, size))
        return F.dropout(output, self.dropout, self.training)

    def _ffn(self, hidden_BTC: torch.Tensor) -> torch.Tensor:
        inner = F.dropout(F.relu(self.ffn_input(hidden_BTC)), self.dropout, self.training)
        return F.dropout(self.ffn_output(inner), self.dropout, self.training)


class ProjectorBlock(nn.Module):
    """A strided convolution, Transformer layers and a linear: (B, T, in) to (B, T', out)."""

    def __init__(self, index: int, input_size: int, config: ProjectorConfig) -> None:
        super().__init__()
        size = config.block_sizes[index]
        kernel, stride, padding = config.kernel_sizes[index], config.strides[index], config.paddings[index]
        self.geometry = Geometry((kernel,), (stride,), (padding,))
        self.positions_dropout = config.dropout if config.dropout_after_positions else 0.0
        self.conv = nn.Conv1d(input_size, size, kernel, stride, padding)
        self.layers = nn.ModuleList(TransformerLayer(size, config) for _ in range(config.num_layers[index]))
        # No gain and bias of its own: the linear that follows has them.
        normed = config.norm_order == "pre" and config.norm_before_linear
        self.final_norm = nn.LayerNorm(size, elementwise_affine=False) if normed else nn.Identity()
        self.linear = nn.Linear(size, config.block_outputs[index])

    def forward(self, hidden_BTC: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_BTC = hidden_BTC * valid_positions(lengths_B, hidden_BTC.shape[1]).unsqueeze(-1)
        hidden_BTC = F.gelu(self.conv(hidden_BTC.transpose(1, 2))).transpose(1, 2)
        lengths_B = num_outputs(lengths_B, self.geometry)
        hidden_BTC = hidden_BTC + sinusoids(hidden_BTC)
        hidden_BTC = F.dropout(hidden_BTC, self.positions_dropout, self.training)
        # A softmax over no valid key is undefined, so every utterance keeps its first key.
        attend_BT = valid_positions(lengths_B.clamp(min=1), hidden_BTC.shape[1])
        for layer in self.layers:
            hidden_BTC = layer(hidden_BTC, attend_BT[:, None, None, :])
        return self.linear(self.final_norm(hidden_BTC)), lengths_B


class Projector(PreTrainedModel):
    """Speech features to LLM input embeddings."""

    config_class = ProjectorConfig
    base_model_prefix = "projector"
    main_input_name = "features"

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        inputs = [config.input_size, *config.block_outputs[:-1]]
        self.blocks = nn.ModuleList(ProjectorBlock(index, size, config) for index, size in enumerate(inputs))
        self.head_input = nn.Linear(config.block_outputs[-1], config.output_size)
        self.head_output = nn.Linear(config.output_size, config.output_size)
        # Zero is nearer to every row than most rows are to each other, so all vectors are read as blank at first.
        blank_E = nn.Parameter(torch.zeros(config.output_size)) if config.readout == "ctc" else None
        self.register_parameter("blank", blank_E)
        learned = nn.Parameter(torch.tensor(math.log(config.ctc_temperature))) if config.learn_temperature else None
        self.register_parameter("log_temperature", learned)
        self.firing = nn.Linear(config.block_outputs[-1], 1) if config.readout == "cif" else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """torch's own initialisation of each module (applied again only to weights that a checkpoint lacks)."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm):
            module.reset_parameters()

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, U, E), zero beyond each utterance's length, and their lengths (B,), int64; see `project`."""
        projected = self.project(features, lengths)
        return projected.vectors_BUE, projected.vectors_B

    def project(self, features: torch.Tensor, lengths: torch.Tensor) -> Projected:
        """Project a padded batch.

        Args:
            features: (B, T, D), any float dtype; what lies beyond `lengths` is ignored.
            lengths: (B,), int64, valid frames of each utterance.

        Raises:
            ValueError: features of another width or too short for one vector.
        """
        if features.ndim != 3 or features.shape[-1] != self.config.input_size:
            raise ValueError(f"features {tuple(features.shape)}: expected (B, T, {self.config.input_size})")
        if self.config.geometry.num_vectors(features.shape[1]) < 1:
            raise ValueError(
                f"{features.shape[1]} frames give no vector; the projector needs at least "
                f"{self.config.geometry.min_frames()}"
            )
        hidden, lengths = self.blocks[0](features.to(self.head_input.weight.dtype), lengths)
        first = hidden
        for block in self.blocks[1:]:
            hidden, lengths = block(hidden, lengths)
        vectors_BUE = self.head_output(F.gelu(self.head_input(hidden))) * self.config.output_scale
        valid_BU = valid_positions(lengths, vectors_BUE.shape[1])
        vectors_BUE = vectors_BUE * valid_BU.unsqueeze(-1)
        temperature = None if self.log_temperature is None else self.log_temperature.exp()
        firing_BU = None if self.firing is None else self.firing(hidden).squeeze(-1).float().sigmoid() * valid_BU
        return Projected(vectors_BUE, lengths, first, self.blank, temperature, firing_BU)


def use_head(projector: Projector, head: str, setting: str) -> None:
    """Give a projector another head than its own; `setting` names where it was asked for, in errors.

    Raises:
        ConfigError: a head that a projector of this readout cannot have.
    """
    known = HEADS[projector.config.readout]
    if head not in known:
        raise ConfigError(
            f"{setting} {head}: this projector can have {', '.join(known)} (it is read by {projector.config.readout})"
        )
    projector.config.head = head


def num_outputs(lengths_B: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """`Geometry.num_vectors` on a tensor, without leaving the device."""
    for kernel, stride, padding in zip(geometry.kernels, geometry.strides, geometry.paddings, strict=True):
        grown = torch.div(lengths_B + 2 * padding - kernel, stride, rounding_mode="floor") + 1
        lengths_B = torch.where(lengths_B > 0, grown.clamp(min=0), torch.zeros_like(lengths_B))
    return lengths_B


def valid_positions(lengths_B: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size), bool: True where a position is below the row's length."""
    return torch.arange(size, device=lengths_B.device)[None, :] < lengths_B[:, None]


def sinusoids(hidden_BTC: torch.Tensor) -> torch.Tensor:
    """Sinusoidal positions (T, C) in the dtype of `hidden_BTC` (Vaswani et al. 2017, section 3.5)."""
    _, frames, size = hidden_BTC.shape
    position_T1 = torch.arange(frames, device=hidden_BTC.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, size, 2, device=hidden_BTC.device) * (-math.log(10_000.0) / size))
    angles = position_T1 * rate
    return torch.stack((angles.sin(), angles.cos()), dim=-1).reshape(frames, size).to(hidden_BTC.dtype)
