"""Extras: what is not installed is named with the extra that brings it, wherever it is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sm_store import extras
from sm_store.errors import ConfigError

ROOT = Path(__file__).parents[2]
PACKAGES = ("store/sm_store", "pipeline/sm_pipeline", "speechmapper")


def hidden(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that cannot import `module`."""
    hide = f"import sys; sys.modules[{module!r}] = None\n"
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, check=False)


def test_a_module_that_is_there_is_returned():
    assert extras.extra_module("jiwer").wer("a", "a") == 0
    assert extras.extra_module("sacrebleu.metrics").BLEU


@pytest.mark.parametrize("module", extras.EXTRA_OF)
def test_a_missing_module_names_its_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=f"{module} is not installed; run `pip install .speechmapper.{extras.EXTRA_OF[module]}"
    ):
        extras.extra_module(module)


def test_what_belongs_to_no_extra_stays_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "whisper_normalizer"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="regex"):
        extras.extra_module("whisper_normalizer.english")


def test_every_extra_is_declared_with_its_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in extras.EXTRA_OF.items():
        assert any(line.replace("-", "_").startswith(module) for line in declared[extra]), module


def imports_at_the_top(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_only_training_imports_what_may_be_missing_when_it_is_imported():
    found = {
        (str(path.relative_to(ROOT).parent), name)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in imports_at_the_top(path) & extras.EXTRA_OF.keys()
    }
    assert found == {("speechmapper/train", "accelerate")}


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("jiwer", "from speechmapper.measure.text import error_rates as f; f(['a'], ['a'])", "eval"),
        ("sacrebleu", "from speechmapper.measure.text import translation_scores as f; f(['a'], ['a'], None)", "eval"),
        ("whisper_normalizer", "from speechmapper.measure.text import *; error_rates(['a'], ['a'], 'whisper')", "eval"),
        ("ray", "from sm_pipeline.extraction.engines.ray import connect; connect()", "ray"),
        ("s3fs", "from sm_store import Store; Store.open('s3://bucket/a.store')", "s3"),
        ("gcsfs", "from sm_store import Store; Store.open('gs://bucket/a.store')", "gcs"),
        ("gguf", "from sm_pipeline.models.tensors import GgufTensors; GgufTensors('a.gguf')", "quantized"),
    ],
)
def test_where_it_is_used_the_extra_is_named(module, code, extra):
    run = hidden(module, code)
    assert f'run `pip install "speechmapper[{extra}]"`' in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        (
            "accelerate",
            "from speechmapper.train.cli import main; sys.argv = ['sm-train', 'stage1', '--store', 'a', '--out', 'b']",
            "train",
        ),
        (
            "espeakng_loader",
            "from sm_pipeline.cli import main; sys.argv = ['sm-pipeline', 'demo-corpus', 'OUT', '--utterances', '60']",
            "demo",
        ),
    ],
)
def test_a_command_ends_in_one_line(tmp_path, module, command, extra):
    run = hidden(module, f"import sys\n{command}\nmain()".replace("OUT", str(tmp_path / "corpus")))
    assert run.returncode == 2
    assert run.stderr == f'error: {module} is not installed; run `pip install "speechmapper[{extra}]"`\n'
