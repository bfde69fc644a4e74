"""Packages that only some commands need, and the extra of `pip install` that brings each.

    jiwer = extra_module("jiwer")          the module, imported now
    ConfigError: jiwer is not installed; run `pip install "speechmapper[eval]"`

`pip install speechmapper` alone brings what stores, extraction and the projector need. A command line turns every
failed import of a module in this table into the same line (`sm_pipeline/console.py`).
"""

from __future__ import annotations

import importlib
from typing import Any

from sm_store.errors import ConfigError

# Module: the extra in pyproject.toml whose packages bring it.
EXTRA_OF = {
    "espeakng_loader": "demo",
    "accelerate": "train",
    "tensorboard": "train",
    "jiwer": "eval",
    "lingua": "eval",
    "rapidfuzz": "eval",
    "sacrebleu": "eval",
    "whisper_normalizer": "eval",
    "pyroomacoustics": "degrade",
    "ray": "ray",
    "s3fs": "s3",
    "gcsfs": "gcs",
    "wandb": "trackers",
    "mlflow": "trackers",
    "trackio": "trackers",
    "gguf": "quantized",
    "bitsandbytes": "quantized",
    "peft": "lora",
}


def extra_module(name: str) -> Any:
    """Import a module whose package, the first part of `name`, is in `EXTRA_OF`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        raise missing from error


def missing_extra(error: ModuleNotFoundError) -> ConfigError | None:
    """The error that names the extra to install; None for a module that belongs to none."""
    package = (error.name or "").partition(".")[0]
    return not_installed(package) if package in EXTRA_OF else None


def not_installed(package: str) -> ConfigError:
    """The error for a package of `EXTRA_OF` that is not there."""
    return ConfigError(f'{package} is not installed; run `pip install "speechmapper[{EXTRA_OF[package]}]"`')
