"""Frozen LLMs whose layers' weights are quantised by bitsandbytes as they are loaded: less memory, a little less exact.

    options = quantized_options("4bit", torch.bfloat16, device)       for transformers' `from_pretrained`
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    keep_weights_layout(model)                                        before its first forward

Only the matrices of the layers are quantised. Input embeddings and output rows stay as in the checkpoint, so that the
embeddings are those of the target set to the bit. Matrices are multiplied in the LLM's dtype; with 8bit bitsandbytes
does that in int8, and computes the columns with outliers in 16 bits (LLM.int8, arXiv 2208.07339). `4bit` is nf4 (QLoRA,
arXiv 2305.14314).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from sm_store.extras import extra_module

FOUR_BIT = "4bit"
LOGGER = "bitsandbytes"  # its import tells which of its kernels this machine lacks


def quantized_options(quantize: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is given to quantise the LLM (`llm.quantize`: 4bit or 8bit) on its way to the device.

    Raises:
        ConfigError: bitsandbytes or accelerate is not installed.
    """
    from transformers import BitsAndBytesConfig

    require_packages()
    if quantize == FOUR_BIT:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": config, "device_map": {"": str(device)}}


def require_packages() -> None:
    """Check that what quantises is installed. Raises ConfigError."""
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    for package in ("bitsandbytes", "accelerate"):
        extra_module(package)


def keep_weights_layout(model: Any) -> None:
    """Keep 4-bit weights as they were loaded.

    On a CPU with AVX-512 bitsandbytes packs them anew for its own product in the first forward without gradients, and
    from then on the backward pass, which reads them in the old layout, gives wrong gradients without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
