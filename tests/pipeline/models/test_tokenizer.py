"""Tokenizers of checkpoints and of target sets: one mechanism, with the error that fits the owner of the files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sm_pipeline.config import TargetConfig
from sm_pipeline.extraction.llm_targets import build_targets
from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import TextTokenizer, load_stored_tokenizer, load_tokenizer, tokenizer_files
from sm_store import Geometry, Store
from sm_store.errors import ModelError, StoreCorrupt
from tests.store import building


@pytest.fixture
def targets(tiny_llm, tmp_path):
    """A target set of the tiny LLM in a store without records."""
    store = Store.create(tmp_path / "s", building.identity())
    build_targets(TargetConfig(str(tiny_llm), pad_token="</s>"), store.identity.dtype).add_to(store)
    return Store.open(store.root).targets("tiny-llm")


def test_the_files_of_a_checkpoint_make_the_same_tokenizer(tiny_llm, targets):
    source = resolve_model(str(tiny_llm), "llm")
    tokenizer = load_tokenizer(source)
    files = tokenizer_files(source, tokenizer)
    assert set(files) == {"tokenizer.json", "tokenizer_config.json"}
    assert {path.name: path.read_bytes() for path in targets.tokenizer_dir.iterdir()} == files
    text = "the old dog, and xyz"
    assert load_stored_tokenizer(targets)(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("broken", [None, b"{", b'{"version": "1.0"}'])
def test_what_is_no_tokenizer_names_its_owner(tiny_llm, tmp_path, broken):
    folder = shutil.copytree(tiny_llm, tmp_path / "m")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    if broken is not None:
        (folder / "tokenizer.json").write_bytes(broken)
    with pytest.raises(ModelError, match=r"--judge .*: its tokenizer cannot be loaded \(.*; give a folder") as refused:
        load_tokenizer(resolve_model(str(folder), "judge"), "judge")
    assert "\n" not in str(refused.value) and refused.value.__cause__ is not None


def test_a_target_set_whose_files_are_no_tokenizer_is_corrupt(tmp_path):
    store = building.build(tmp_path / "s")  # its tokenizer files are whole, but only stand for some
    with pytest.raises(StoreCorrupt, match="not a tokenizer") as corrupt:
        load_stored_tokenizer(store.targets("llm"))
    assert "\n" not in str(corrupt.value)


def test_transcripts_become_token_ids_without_bos_and_eos(targets):
    tokenizer = TextTokenizer.from_target_set(targets)
    ids = tokenizer.token_ids("The OLD dog!")
    assert ids.dtype == np.int32
    assert ids.tolist() == [4, 5, 6]
    assert tokenizer.token_ids("?!").shape == (0,)
    assert tokenizer.geometry == Geometry()


def test_a_tokenizer_with_two_ids_swapped_is_refused(targets):
    """The file still loads, and has its size: only its checksum tells."""
    path = targets.tokenizer_dir / "tokenizer.json"
    contents = json.loads(path.read_bytes())
    vocabulary = contents["model"]["vocab"]
    one, two = list(vocabulary)[4:6]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_bytes(json.dumps(contents).encode())
    with pytest.raises(StoreCorrupt, match=r"tokenizer\.json") as refused:
        load_stored_tokenizer(targets)
    assert "not a tokenizer" not in str(refused.value)
    with pytest.raises(StoreCorrupt):
        TextTokenizer.from_target_set(targets)


def test_importing_it_loads_no_llm_code():
    code = "import sys; import sm_pipeline.models.tokenizer; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
