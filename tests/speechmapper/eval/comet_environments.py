"""Environments for the tests of COMET: a false one that needs nothing, and the real one where it was built."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.comet_environment import clean_environment, is_finished

ROOT = Path(__file__).parents[3]
# Stands for the package: what the "checkpoint" says decides what happens.
COMET = """
import sys, time
from pathlib import Path
from types import SimpleNamespace

def load_from_checkpoint(path):
    kind = Path(path).read_text()
    print("loading", kind)
    if kind == "fails":
        raise OSError("We couldn't connect to 'https://huggingface.co'")
    if kind == "hangs":
        time.sleep(60)
    return Model(kind)

class Model:
    def __init__(self, kind):
        self.kind = kind
    def predict(self, segments, batch_size, gpus, progress_bar):
        scores = [len(each["mt"]) / 10 for each in segments]
        if self.kind == "nan":
            scores[0] = float("nan")
        return SimpleNamespace(scores=scores[1:] if self.kind == "short" else scores)
"""


def false_environment(folder: Path) -> Path:
    """An environment whose `comet` scores a translation by its length."""
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "comet.py").write_text(COMET)
    for name in ("unbabel_comet", "transformers", "torch"):
        info = packages / f"{name}-9.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.1\n")
    return folder


def false_model(folder: Path, kind: str = "scores") -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hparams.yaml").write_text("class_identifier: regression_metric\n")
    (folder / "checkpoints" / "model.ckpt").write_text(kind)
    return folder


def real_environment() -> Path:
    """The environment that `make comet-env` builds, or that COMET_ENV names; without one the test is skipped."""
    folder = Path(os.environ.get("COMET_ENV") or ROOT / ".venv-comet")
    if not is_finished(folder):
        pytest.skip(f"no environment of COMET at {folder}: run `make comet-env`")
    return folder


def real_model(folder: Path, environment: Path, more: str = "") -> Path:
    """A tiny model of random weights, written by COMET itself."""
    script = Path(__file__).with_name("tiny_comet.py")
    done = subprocess.run(
        [environment / "bin" / "python", "-I", script, folder, *filter(None, [more])],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    if done.returncode:
        raise ConfigError(done.stderr)
    return folder
