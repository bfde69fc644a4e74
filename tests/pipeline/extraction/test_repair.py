"""Repair: whatever is damaged, the store is the one it was, bit for bit, and only the bad parts are made again."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import sm_pipeline.extraction.repair
from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.extraction.embed import embed
from sm_pipeline.extraction.extract import extract
from sm_pipeline.extraction.recipe import load_recipe
from sm_pipeline.extraction.repair import repair
from sm_store import Store
from sm_store.convert import export
from sm_store.durable import locked
from sm_store.errors import (
    IdentityMismatch,
    ManifestError,
    RunFailed,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreMissing,
)
from sm_store.paths import RECIPE, REPAIR
from sm_store.verify import verify
from tests.pipeline import llms
from tests.store.building import tree


@pytest.fixture(scope="module", params=[("zarr", "none"), ("webdataset", "int8"), ("zarr", "zstd")], ids="-".join)
def made(request, tiny_corpus, tiny_llm, tmp_path_factory):
    """A store of three shards: one target set made with the features, one added later. Read only."""
    folder = tmp_path_factory.mktemp("repair")
    settings = ExtractConfig(
        tiny_corpus, folder / "s", encoder="tiny-seamless", device="cpu", workers=1,
        layout=request.param[0], compression=request.param[1],
        shard_utterances=3, targets=TargetConfig(str(tiny_llm), name="first"),
    )  # fmt: skip
    extract(settings)
    embed(folder / "s", TargetConfig(str(tiny_llm), kind="table", name="later"))
    return folder / "s"


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "s")


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 4
    path.write_bytes(data)


def features_of(store, shard):
    opened = Store.open(store)
    return store / opened.parts[shard].data["features"], opened.columns(["offset"])["offset"]


def damage_features(store):
    path, _ = features_of(store, 1)
    flip(path)
    return [1]


def cut_features(store):
    path, _ = features_of(store, 2)
    path.write_bytes(path.read_bytes()[:-100])
    return [2]


def lose_features(store):
    for shard in (0, 2):
        features_of(store, 0)[0].parent.joinpath(features_of(store, shard)[0]).unlink()
    return [0, 2]


def damage_part(store):
    flip(store / "catalog/00001.parquet")
    return [1]


def damage_ledger(store):
    (store / "ledger/00000.jsonl").write_text('{"id": "x"}\n')
    return [0]


@pytest.mark.parametrize("damage", [damage_features, cut_features, damage_part, damage_ledger])
def test_bad_shards_are_extracted_again_to_the_same_bytes(made, store, damage):
    shards = damage(store)
    untouched = {path: path.stat().st_mtime_ns for path in (store / "catalog").glob("0000?.parquet")}
    assert not verify(store).ok
    summary = repair(store, device="cpu")
    assert summary.shards == shards and summary.damages >= 1
    assert f"extracted again: shards {shards[0]}" in summary.in_words()
    assert tree(store) == tree(made)
    remade = {int(path.stem) for path, time in untouched.items() if path.stat().st_mtime_ns != time}
    assert remade == set(shards)


def test_targets_made_with_the_features_are_made_with_them_again(made, store):
    flip(store / "targets/first/catalog/00001.parquet")
    summary = repair(store, device="cpu")
    assert summary.shards == [1] and summary.targets == {"later": [1]}
    assert tree(store) == tree(made)


def test_targets_added_later_are_embedded_again_without_touching_features(made, store):
    flip(store / "targets/later/catalog/00002.parquet")
    before = (store / "catalog/00002.parquet").stat().st_mtime_ns
    summary = repair(store, device="cpu")
    assert summary.shards == [] and summary.targets == {"later": [2]}
    assert "targets later again: shards 2" in summary.in_words()
    assert (store / "catalog/00002.parquet").stat().st_mtime_ns == before
    assert tree(store) == tree(made)


@pytest.mark.parametrize("name", ["table.npy", "tokenizer/tokenizer.json", "target.json"])
def test_a_target_sets_own_files_are_written_again(made, store, name):
    flip(store / "targets/first" / name)
    summary = repair(store, device="cpu")
    assert summary.restored == ["first"] and summary.shards == []
    assert tree(store) == tree(made)


def test_the_groups_that_stock_tools_open_are_written_again(made, store):
    if not (store / "zarr.json").exists():
        pytest.skip("plain tars have none")
    (store / "zarr.json").unlink()
    (store / "shards/zarr.json").write_text("{}")
    repair(store, device="cpu")
    assert tree(store) == tree(made)


@pytest.mark.parametrize("step", ["discard", "run_job", "embed_shards", "verify_store"])
def test_stopped_at_any_step_it_goes_on(made, store, monkeypatch, step):
    damage_features(store)
    flip(store / "targets/later/catalog/00002.parquet")
    real = getattr(sm_pipeline.extraction.repair, step)
    calls = []

    def stop(*arguments):
        calls.append(step)
        if step != "verify_store":
            real(*arguments)  # the step itself is done, what follows is not
            raise KeyboardInterrupt
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(sm_pipeline.extraction.repair, step, stop)
        with pytest.raises(KeyboardInterrupt):
            repair(store, device="cpu")
    assert verify(store).ok and (store / REPAIR).is_file()
    summary = repair(store, device="cpu")
    assert ("a repair that was interrupted" in summary.in_words()) == (step in ("discard", "run_job"))
    assert tree(store) == tree(made)


def test_what_another_process_is_writing_is_said(made, store, monkeypatch):
    damage_features(store)
    with monkeypatch.context() as patched:
        patched.setattr(sm_pipeline.extraction.repair, "run_job", lambda *_: None)  # left to whoever holds the shard
        with pytest.raises(RunFailed, match="another process is writing shards 1; run `sm-pipeline repair` again"):
            repair(store, device="cpu")
    with locked(store, "repair"), pytest.raises(StoreBusy):
        repair(store, device="cpu")
    assert repair(store, device="cpu").shards == [1]
    assert tree(store) == tree(made)


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_targets_are_written_as_they_were_whatever_the_last_extraction_was(shard, tiny_corpus, tiny_llm, tmp_path):
    """Shards 0 and 1 got their targets with their features, shard 2 after them."""
    settings = ExtractConfig(
        tiny_corpus, tmp_path / "s", encoder="tiny-seamless", device="cpu", workers=1, shard_utterances=3,
        layout="webdataset", targets=TargetConfig(str(tiny_llm), name="first"),
    )  # fmt: skip
    extract(settings)
    (tmp_path / "s/catalog/00002.parquet").unlink()
    extract(replace(settings, targets=None))
    assert load_recipe(tmp_path / "s").targets is None
    embed(tmp_path / "s", settings.targets)
    before = tree(tmp_path / "s")
    flip(tmp_path / f"s/shards/0000{shard}.tar")
    later = {"first": [2]} if shard == 2 else {}
    summary = repair(tmp_path / "s", device="cpu")
    assert (summary.shards, summary.targets) == ([shard], later)
    assert tree(tmp_path / "s") == before


def test_nothing_to_repair(made, store):
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    summary = repair(store)
    assert summary.damages == 0 and "nothing to repair" in summary.in_words()
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_an_unfinished_store_is_repaired_but_not_finished(store):
    for file in (store / "catalog/00002.parquet", store / "catalog/_00002.crc32c"):
        file.unlink()
    damage_features(store)
    repair(store, device="cpu")
    assert Store.open(store).done_shards() == {0, 1}


def test_another_manifest_is_refused_and_nothing_is_discarded(store, tmp_path, tiny_corpus):
    damage_features(store)
    lines = tiny_corpus.read_text().splitlines()
    other = tiny_corpus.parent / "other.jsonl"
    other.write_text("\n".join(lines[:-1]) + "\n")
    before = tree(store)
    with pytest.raises(IdentityMismatch, match="manifest_sha256"):
        repair(store, manifest=other, device="cpu")
    with pytest.raises(ManifestError, match="no such manifest"):
        repair(store, manifest=tmp_path / "nothing.jsonl", device="cpu")
    other.unlink()
    assert tree(store) == before


def test_a_manifest_that_was_moved_is_named(made, store, tiny_corpus, tmp_path):
    moved = shutil.copytree(tiny_corpus.parent, tmp_path / "moved")
    damage_features(store)
    assert repair(store, manifest=moved / tiny_corpus.name, device="cpu").shards == [1]
    assert tree(store) == tree(made)


def test_a_copy_cannot_be_extracted_again_here(store, tmp_path):
    export(store, tmp_path / "copy", "zarr")
    damage_features(tmp_path / "copy")
    with pytest.raises(StoreMissing, match="do this to what it was exported or merged from"):
        repair(tmp_path / "copy")
    assert not verify(tmp_path / "copy").ok


def test_targets_added_later_are_embedded_again_in_a_copy_too(store, tmp_path):
    export(store, tmp_path / "copy", "zarr")
    before = tree(tmp_path / "copy")
    flip(tmp_path / "copy/targets/later/catalog/00001.parquet")
    assert repair(tmp_path / "copy").targets == {"later": [1]}
    assert tree(tmp_path / "copy") == before


def test_the_identity_itself_cannot_be_repaired(store):
    flip(store / "store.json")
    with pytest.raises(StoreError, match=r"store\.json"):
        repair(store)


def test_an_llm_that_changed_meanwhile_is_refused(store, tiny_llm, tmp_path):
    spec = Store.open(store).targets("first").spec
    saved = shutil.copytree(tiny_llm, tmp_path / "saved")
    flip(store / "targets/first/table.npy")
    try:
        shutil.rmtree(tiny_llm)
        llms.save(tiny_llm, llms.llama(seed=9))
        with pytest.raises(IdentityMismatch, match="table_sha256"):
            repair(store, device="cpu")
    finally:
        shutil.rmtree(tiny_llm)
        shutil.copytree(saved, tiny_llm)
    assert spec.llm == str(tiny_llm)


def test_damage_that_comes_back_is_said(store, monkeypatch):
    """A disk that goes on losing bytes."""
    damage_features(store)
    other, _ = features_of(store, 0)
    monkeypatch.setattr("sm_pipeline.extraction.repair.run_job", lambda *_: flip(other))
    with pytest.raises(RunFailed, match="damages are left"):
        repair(store, device="cpu")


def test_the_recipe_is_sealed_and_complete(store, tiny_corpus):
    recipe = load_recipe(store)
    assert (recipe.manifest, recipe.encoder, recipe.targets) == (str(tiny_corpus.resolve()), "tiny-seamless", "first")
    data = json.loads((store / RECIPE).read_text())
    data["manifest"] = "/elsewhere"
    (store / RECIPE).write_text(json.dumps(data))
    with pytest.raises(StoreCorrupt, match=RECIPE):
        load_recipe(store)


def test_many_extractions_may_begin_at_once(store):
    recipe = load_recipe(store)
    (store / RECIPE).unlink()
    ready = threading.Barrier(8)

    def begin(number: int) -> None:
        ready.wait()
        for round_ in range(5):
            replace(recipe, batch_seconds=float(10 * number + round_)).save(store)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))
    assert load_recipe(store).encoder == recipe.encoder
