"""Recipes: what extract.json holds, and that it gives back the settings of the extraction."""

from __future__ import annotations

import pytest

from sm_pipeline.config import ExtractConfig
from sm_pipeline.extraction.recipe import Recipe, load_recipe
from sm_store import document
from sm_store.errors import StoreCorrupt, StoreFormatError, StoreMissing
from sm_store.paths import RECIPE
from tests.store import building

MAX_SECONDS, SHARD = 30.0, 100


def config(folder, **changes) -> ExtractConfig:
    settings = {"encoder": "tiny-seamless", "max_seconds": MAX_SECONDS, "shard_utterances": SHARD, **changes}
    return ExtractConfig(folder / "m.jsonl", folder / "s", **settings)


def identity(**changes):
    encoder = {**building.identity().encoder, "layer": 2, "compute_dtype": "float32"}
    front_end = {"max_seconds": MAX_SECONDS}
    return building.identity(
        encoder=encoder, front_end=front_end, plan={"shards": 1, "max_utterances": SHARD}, **changes
    )


def test_a_recipe_and_an_identity_give_the_settings_again(tmp_path):
    recipe = Recipe.of(config(tmp_path, audio_root=tmp_path), "llm", 15.0)
    recipe.save(tmp_path)
    again = load_recipe(tmp_path)
    assert again == recipe
    settings = again.config(tmp_path / "s", identity(), "cpu")
    assert (settings.manifest, settings.audio_root) == (tmp_path.resolve() / "m.jsonl", tmp_path.resolve())
    assert (settings.encoder, settings.layer, settings.compute_dtype) == ("tiny-seamless", 2, "float32")
    assert (settings.max_seconds, settings.shard_utterances, settings.batch_seconds) == (MAX_SECONDS, SHARD, 15.0)
    assert (settings.device, settings.targets, settings.average) == ("cpu", None, identity().average)


def test_paths_are_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enc").mkdir()
    assert Recipe.of(config(tmp_path, encoder="enc?padding=none"), None, 1.0).encoder == f"{tmp_path}/enc?padding=none"
    assert Recipe.of(config(tmp_path, encoder="me/enc@main"), None, 1.0).encoder == "me/enc@main"


def test_a_moved_manifest_brings_its_own_folder(tmp_path):
    recipe = Recipe.of(config(tmp_path, audio_root=tmp_path), None, 1.0)
    settings = recipe.config(tmp_path / "s", identity(), "cpu", tmp_path / "elsewhere.jsonl")
    assert (settings.manifest, settings.audio_root) == (tmp_path / "elsewhere.jsonl", None)


def test_the_same_recipe_is_not_written_again(tmp_path):
    recipe = Recipe.of(config(tmp_path), None, 1.0)
    recipe.save(tmp_path)
    before = (tmp_path / RECIPE).stat().st_ino
    recipe.save(tmp_path)
    assert (tmp_path / RECIPE).stat().st_ino == before


def test_what_is_no_recipe(tmp_path):
    with pytest.raises(StoreMissing, match=r"was not made by `sm-pipeline extract`"):
        load_recipe(tmp_path)
    (tmp_path / RECIPE).write_bytes(document.encode({"manifest": "m"}))
    with pytest.raises(StoreFormatError, match="missing or unknown keys"):
        load_recipe(tmp_path)
    (tmp_path / RECIPE).write_text('{"manifest": "m"}')
    with pytest.raises((StoreCorrupt, StoreFormatError)):
        load_recipe(tmp_path)
