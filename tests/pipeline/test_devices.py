"""Devices and dtypes: what `auto` means, which names there are, what is refused."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sm_pipeline import devices
from sm_pipeline.devices import (
    DTYPES,
    PRECISIONS,
    autocast,
    choose_device,
    choose_dtype,
    dtype_name,
    mixed_precision,
    torch_dtype,
)
from sm_store.dtypes import NUMPY
from sm_store.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_devices_and_precisions():
    assert choose_device("cpu") == CPU
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", GPU) == torch.bfloat16
    assert choose_dtype("float16", GPU) == torch.float16
    with pytest.raises(ConfigError, match="--device gpu"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="compute dtype 'float8'"):
        choose_dtype("float8", CPU)
    with pytest.raises(ConfigError, match="LLM dtype 'int3'"):
        choose_dtype("int3", CPU, "LLM dtype")


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == GPU
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(("capability", "dtype", "precision"), [(7, "float32", "no"), (8, "bfloat16", "bf16")])
def test_auto_is_bfloat16_only_where_the_gpu_has_it(monkeypatch, capability, dtype, precision):
    """A V100 (7.0) makes bfloat16 tensors, but emulates their arithmetic."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    properties = SimpleNamespace(major=capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _device: True)
    assert choose_dtype("auto", GPU) == torch_dtype(dtype)
    assert mixed_precision("auto", GPU) == precision
    assert mixed_precision("bf16", GPU) == "bf16"  # named, it is used anyway
    with_bfloat16 = []
    monkeypatch.setattr(torch, "autocast", lambda *_args, enabled: with_bfloat16.append(enabled))
    autocast(GPU)
    assert with_bfloat16 == [dtype == "bfloat16"]


@pytest.mark.parametrize(
    ("built_for", "sees", "device", "warnings"),
    [("13.0", False, "auto", 1), ("13.0", False, "cpu", 0), ("13.0", True, "auto", 0), (None, False, "auto", 0)],
)
def test_a_gpu_build_that_sees_no_gpu_warns_once(monkeypatch, capsys, built_for, sees, device, warnings):
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
    devices._warn_of_cpu.cache_clear()
    for _ in range(2):
        choose_device(device)
    out, err = capsys.readouterr()
    assert (out, err.count("warning: "), err.count("\n")) == ("", warnings, warnings)
    assert ("for CUDA 13.0, but sees no GPU: computing on the CPU" in err) == bool(warnings)


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_has_one_name_in_torch_and_in_stores(name):
    assert dtype_name(torch_dtype(name)) == name
    assert name in NUMPY and len(DTYPES) == len(NUMPY)
    assert torch_dtype(name).itemsize == NUMPY[name].itemsize


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_gpu"),
    [("auto", "no", "bf16"), ("fp32", "no", "no"), ("bf16", "bf16", "bf16"), ("fp16", None, "fp16")],
)
def test_what_accelerate_is_given(precision, on_cpu, on_gpu):
    assert precision in PRECISIONS
    assert mixed_precision(precision, GPU) == on_gpu
    if on_cpu is None:
        with pytest.raises(ConfigError, match=r"run\.precision fp16 needs a GPU"):
            mixed_precision(precision, CPU)
    else:
        assert mixed_precision(precision, CPU) == on_cpu


def test_a_cpu_computes_as_it_did():
    ones = torch.ones(2, 2)
    with autocast(CPU):
        assert (ones @ ones).dtype == torch.float32


def test_the_names_need_no_torch():
    code = "import sys; import sm_pipeline.devices; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
