"""Configurations: impossible values are refused with the flag's name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_store.errors import ConfigError


def config(**settings) -> ExtractConfig:
    return ExtractConfig(Path("m.jsonl"), Path("s.store"), **settings)


def test_defaults_are_the_method():
    made = config()
    assert made.encoder == "facebook/seamless-m4t-v2-large"
    assert (made.average, made.dtype, made.layout, made.targets) == (2, "float16", "zarr", None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"average": 0}, "--average 0: give 1 or more"),
        ({"layer": 0}, "--layer 0"),
        ({"workers": 0}, "--workers 0"),
        ({"shard_utterances": -1}, "--shard-utterances -1"),
        ({"max_rejects": -1}, "--max-rejects -1"),
        ({"max_seconds": 0.0}, "--max-seconds 0.0"),
        ({"max_seconds": float("nan")}, "--max-seconds nan"),
        ({"batch_seconds": float("inf")}, "--batch-seconds inf"),
        ({"dtype": "int8"}, "--dtype int8: choose float16, bfloat16, float32"),
        ({"layout": "hdf5"}, "--format hdf5: choose zarr, webdataset"),
        ({"engine": "cloud"}, "--engine cloud: choose local"),
        ({"numbers": "spell"}, "--numbers spell: choose keep, remove"),
    ],
)
def test_impossible_values(settings, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        config(**settings)


def test_impossible_targets():
    with pytest.raises(ConfigError, match="--targets sparse: choose dense, table"):
        TargetConfig("llm", kind="sparse")


def test_configurations_never_change():
    with pytest.raises(FrozenInstanceError):
        config().average = 3


def test_configuring_needs_no_torch():
    code = "import sys, sm_pipeline.config; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
