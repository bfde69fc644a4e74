"""Which target set of each store is used."""

from __future__ import annotations

import dataclasses

import pytest

from sm_store import Store
from sm_store.errors import ConfigError, IdentityMismatch, StoreMissing
from speechmapper.loader.target_sets import choose_target, choose_targets
from tests.speechmapper.tiny import make_world, second_store


def test_the_only_target_set_needs_no_name_and_none_is_an_error(world, tmp_path):
    assert choose_target(world.store, None) == "tiny"
    other = make_world(tmp_path / "world", utterances=6)
    store = Store.open(other.path)
    store.drop_target_set("tiny")
    with pytest.raises(ConfigError, match="0 target sets"):
        choose_target(store, None)
    with pytest.raises(ConfigError, match="no target set"):
        choose_targets([world.store, store], None)


def test_sets_of_one_content_belong_together_whatever_their_names(world, tmp_path):
    other = Store.open(second_store(tmp_path / "store", name="renamed", kind="table"))
    stores = [world.store, other]
    assert choose_targets(stores, None) == ["tiny", "renamed"]
    assert choose_targets(stores, "tiny") == ["tiny", "renamed"]
    assert choose_targets(stores[::-1], "tiny") == ["renamed", "tiny"]
    with pytest.raises(StoreMissing, match=r"--target x: in none of the stores .* has tiny; .* has renamed"):
        choose_targets(stores, "x")


def add(store: Store, name: str) -> None:
    """The set `tiny` of a store once more, under another name."""
    target = store.targets("tiny")
    files = {path.name: path.read_bytes() for path in target.tokenizer_dir.iterdir()}
    store.add_target_set(dataclasses.replace(target.spec, name=name), target.table, files)


def test_what_is_ambiguous_is_named(tmp_path):
    stores = [Store.open(second_store(tmp_path / name)) for name in ("a", "b")]
    add(stores[0], "again")
    with pytest.raises(ConfigError, match=r"share 2 target sets \(again, tiny\); name one with --target"):
        choose_targets(stores, None)
    assert choose_targets(stores, "again") == ["again", "tiny"]
    assert choose_targets(stores, None, lambda store: "tiny") == ["tiny", "tiny"]


def test_the_set_that_every_store_has_needs_no_name(tmp_path):
    first, second = (Store.open(second_store(tmp_path / str(seed), llm_seed=seed)) for seed in (0, 1))
    target = second.targets("tiny")
    files = {path.name: path.read_bytes() for path in target.tokenizer_dir.iterdir()}
    first.add_target_set(dataclasses.replace(target.spec, name="other"), target.table, files)
    assert choose_targets([first, second], None) == ["other", "tiny"]
    with pytest.raises(IdentityMismatch, match="'tiny'"):
        choose_targets([first, second], "tiny")


def test_sets_of_other_tables_are_refused_with_both_stores(world, tmp_path):
    other = Store.open(second_store(tmp_path / "store", llm_seed=3))
    with pytest.raises(IdentityMismatch, match="table_sha256: ") as caught:
        choose_targets([world.store, other], None)
    assert str(world.path) in str(caught.value) and other.path in str(caught.value)
