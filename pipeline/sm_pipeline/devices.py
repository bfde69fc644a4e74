"""Where to compute and how precisely: what `auto` means, and the names of the dtypes.

    device = choose_device("auto")                 cuda where there is a GPU, else cpu
    choose_dtype("auto", device)                   torch.bfloat16 on a GPU that has it, torch.float32 elsewhere
    choose_dtype("float16", device)                torch.float16
    mixed_precision("auto", device)                "bf16" or "no" alike: what Accelerate is given
    with autocast(device): ...                     bfloat16 likewise; elsewhere nothing changes

A GPU before Ampere (V100, T4) only emulates bfloat16, slowly: `auto` is float32 there.

torch is imported inside the functions: command lines and configurations need only the names.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

from sm_store.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Name of a dtype in torch, in stores and on the command lines: its name in the training configuration and Accelerate.
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
PRECISIONS = ("auto", *DTYPES.values())


def choose_device(device: str) -> torch.device:
    """The device of a `--device` option; `auto` is the first GPU where there is one, else the CPU.

    Where torch is built for a GPU and sees none, `auto` warns once: the same work may take a hundred times longer.

    Raises:
        ConfigError: not a torch device, or a GPU on a machine without one.
    """
    import torch

    if device == "auto":
        seen = torch.cuda.is_available()
        if not seen and torch.version.cuda:
            _warn_of_cpu(torch.version.cuda)
        return torch.device("cuda" if seen else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"--device {device}: not a torch device; use auto, cpu or cuda[:N]") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: no CUDA GPU is visible here; use cpu")
    return chosen


@cache
def _warn_of_cpu(cuda: str) -> None:
    sys.stderr.write(
        f"warning: this build of torch is for CUDA {cuda}, but sees no GPU: computing on the CPU. Compare the driver "
        "that `nvidia-smi` shows with README, Install, or name the CPU as the device\n"
    )


def choose_dtype(dtype: str, device: torch.device, setting: str = "compute dtype") -> torch.dtype:
    """The dtype of that name; `auto` is bfloat16 on a GPU that has it and float32 elsewhere.

    Args:
        setting: what is being set, for the message.

    Raises:
        ConfigError: an unknown dtype.
    """
    if dtype == "auto":
        dtype = "bfloat16" if has_bfloat16(device) else "float32"
    if dtype not in DTYPES:
        raise ConfigError(f"{setting} {dtype!r}: use auto, {', '.join(DTYPES)}")
    return torch_dtype(dtype)


def has_bfloat16(device: torch.device) -> bool:
    """Whether this is a GPU that computes in bfloat16 without emulation; one of another machine is taken to be."""
    import torch

    if device.type != "cuda":
        return False
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name in `DTYPES`."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """The name in `DTYPES` of a torch dtype."""
    return str(dtype).removeprefix("torch.")


def mixed_precision(precision: str, device: torch.device) -> str:
    """Accelerate's `mixed_precision` for one of `PRECISIONS`: bf16, fp16, or `no` for float32 throughout.

    Raises:
        ConfigError: a precision that the device does not have.
    """
    if precision == "auto":
        precision = DTYPES[dtype_name(choose_dtype("auto", device))]
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("run.precision fp16 needs a GPU; use fp32 or bf16")
    return "no" if precision == "fp32" else precision


def autocast(device: torch.device) -> torch.autocast:
    """A context that computes in bfloat16 on a GPU that has it; elsewhere nothing changes."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
