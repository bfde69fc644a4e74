"""Floating-point operations of a frozen LLM in training, by arithmetic from its sizes.

    sizes = FlopSizes.of(model)
    sizes.of_answers(rows=12, inputs=102, keys=124, answers=29)        5.6e11 for SmolLM2-135M

A multiply-add counts as 2. Per position forward: 2 per weight of the layers' matrices, and in each layer 4 x keys x
heads x head width of attention (scores and their sum over values, without a discount for the causal mask); 2 per weight
of the output rows where an answer's logits are computed. Backward the same again, as weights are frozen and only the
inputs have a gradient; attention, both of whose factors are inputs, twice. Weights of adapters, which are trained, cost
2 forward and 4 backward. What checkpointing computes again does not
count, pads do. Layers of experts, of which a position uses a few, are not covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# FLOP per second of 16-bit matrix products without sparsity (the makers' data sheets), by a part of the device's name;
# the first that fits counts.
PEAKS = {
    "V100": 125e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}


@dataclass(frozen=True, slots=True)
class FlopSizes:
    """Sizes of an LLM.

    Attributes:
        layers: weights of the layers' matrices, all together. output: those of the output rows.
        attention: layers x heads x head width. trained: weights of the adapters in the layers.
    """

    layers: int
    output: int
    attention: int
    trained: int = 0

    @classmethod
    def of(cls, model: Any) -> FlopSizes | None:
        """The sizes of a Hugging Face causal LM; None where it has experts."""
        config, output = model.config.get_text_config(), model.get_output_embeddings()
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            return None
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        matrices = [module for module in model.modules() if module is not output and _weights(module)]
        return cls(
            layers=sum(_weights(module) for module in matrices),
            output=config.vocab_size * config.hidden_size,
            attention=config.num_hidden_layers * heads * head_width,
        )

    def of_answers(self, rows: int, inputs: int, keys: int, answers: int) -> float:
        """FLOP of the loss of a batch and its gradient: `inputs` positions that see up to `keys`, `answers` logits."""
        matrices = 2 * 2 * (self.layers * inputs + self.output * answers) + 2 * 3 * self.trained * inputs
        return float(rows * (matrices + 3 * 4 * self.attention * inputs * keys))


def _weights(module: torch.nn.Module) -> int:
    """Weights of a linear layer, quantised or not; 0 for any other module."""
    sizes = [getattr(module, name, None) for name in ("in_features", "out_features")]
    if not all(isinstance(size, int) for size in sizes):
        sizes = [getattr(module, name, None) for name in ("nx", "nf")]  # transformers' Conv1D of GPT-2
    return sizes[0] * sizes[1] if all(isinstance(size, int) for size in sizes) else 0  # type: ignore[operator]


def peak_flop(device: torch.device) -> float | None:
    """FLOP per second that a GPU reaches at most in 16 bit; None where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)
