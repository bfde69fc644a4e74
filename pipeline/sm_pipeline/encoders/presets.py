"""Encoders that need no network: real architectures, small, with seeded random weights."""

from __future__ import annotations

from typing import Any

# SeamlessM4T-v2's own architecture at a size that two CPU cores run far faster than real time. Random Conformer
# features keep enough of the filter banks to learn from, which is all the demo and the tests need.
TINY_SEAMLESS: dict[str, Any] = {
    "hidden_size": 256,
    "speech_encoder_layers": 2,
    "speech_encoder_attention_heads": 4,
    "speech_encoder_intermediate_size": 512,
    "conv_depthwise_kernel_size": 5,
    "feature_projection_input_dim": 160,
    # The text, unit and vocoder parts of the checkpoint are never built: only the speech encoder is.
}

ENCODER_PRESETS: dict[str, dict[str, Any]] = {"tiny-seamless": TINY_SEAMLESS}
PRESET_SEED = 20417
