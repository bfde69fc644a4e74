"""Speech to evaluate on: a store, or a manifest's audio."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sm_store.errors import ConfigError, RunFailed
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.eval.sources import ManifestSource, StoreSource, matching_target
from speechmapper.saved_projector import load_projector
from tests import speech


def test_a_manifest_is_evaluated_as_the_store_made_from_it(chain, tmp_path):
    manifest = chain / "corpus" / "manifest.jsonl"
    for split in ("train", "test"):
        heard = predict(PredictRequest(chain / "stage1", tmp_path / "a", manifest=manifest, split=split, device="cpu"))
        read = predict(PredictRequest(chain / "stage1", tmp_path / "b", chain / "store", split=split))
        assert [line["id"] for line in heard] == [line["id"] for line in read]
        assert [line["output"] for line in heard] == [line["output"] for line in read]


def test_broken_audio_of_a_manifest_is_counted_and_all_broken_is_a_failure(chain, tmp_path):
    for file in (chain / "corpus" / "audio").iterdir():
        (tmp_path / "audio").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "audio")
    shutil.copy(chain / "corpus" / "manifest.jsonl", tmp_path)
    request = PredictRequest(chain / "stage1", tmp_path / "out", manifest=tmp_path / "manifest.jsonl", split="train")
    broken, whole = [
        path for id_, path in speech.audio_paths(chain / "corpus" / "manifest.jsonl").items() if id_ in ("u0", "u1")
    ]
    (tmp_path / "audio" / Path(broken).name).write_bytes(b"RIFF....WAVEnothing")
    assert [line["id"] for line in predict(request)] == ["u1"]
    assert json.loads((tmp_path / "out" / "about.json").read_text())["rejected"] == 1
    (tmp_path / "audio" / Path(whole).name).unlink()
    with pytest.raises(RunFailed, match="no audio of its 2 utterances"):
        predict(dataclasses.replace(request, out=tmp_path / "none"))


def test_store_and_manifest_exclude_each_other(chain, tmp_path):
    for both in ({}, {"store": chain / "store", "manifest": chain / "corpus" / "manifest.jsonl"}):
        with pytest.raises(ConfigError, match="give one of the two"):
            predict(PredictRequest(chain / "stage1", tmp_path, **both))


def test_the_matching_target_set_is_found_by_its_table_not_its_name(world, stage1_run):
    projector = load_projector(stage1_run)
    assert matching_target(world.store, projector) == "tiny"
    projector.config.trained_for["target"]["name"] = "renamed"
    assert matching_target(world.store, projector) == "tiny"
    projector.config.trained_for["target"]["table_sha256"] = "0" * 64
    assert matching_target(world.store, projector) is None


def test_a_stores_utterances_too_short_for_a_vector_are_counted(world, stage1_run, tmp_path):
    projector = load_projector(stage1_run)
    everything = StoreSource(world.path, projector, "train", 4)
    assert (everything.rejected(), everything.split) == (0, "train")
    frames = sorted(world.store.frames[world.store.select(split="train")].tolist())
    projector.config.kernel_sizes = [frames[3], 1]  # of the first three utterances no frame is left
    projector.config.paddings = [0, 0]
    shorter = StoreSource(world.path, projector, "train", 4)
    assert shorter.rejected() == sum(count < frames[3] for count in frames) > 0
    assert len(shorter) + shorter.rejected() == len(everything)


def test_batches_give_each_utterance_once_with_its_targets(world, stage1_run):
    source = StoreSource(world.path, load_projector(stage1_run), "train", 4)
    batches = list(source.batches(source.numbers()))
    numbers = [number for batch in batches for number in batch.numbers]
    assert sorted(numbers) == sorted(world.store.select(split="train").tolist())
    assert all(len(batch.numbers) <= 4 for batch in batches)
    longest = [int(batch.frames_B.max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    first = batches[0]
    assert source.id(first.numbers[0]) == world.store[first.numbers[0]].id
    assert source.fields(first.numbers[0]).text == world.store[first.numbers[0]].text
    assert first.targets_BUE.shape[0] == len(first.tokens_B) == len(first.numbers)


def test_a_manifest_has_the_same_ids_and_texts_as_its_store(chain):
    projector = load_projector(chain / "stage1")
    of_store = StoreSource(chain / "store", projector, None, 4)
    of_manifest = ManifestSource(chain / "corpus" / "manifest.jsonl", projector, None, 4)
    assert len(of_store) == len(of_manifest)
    both = [
        {
            source.id(number): source.fields(number).text
            for batch in source.batches(source.numbers())
            for number in batch.numbers
        }
        for source in (of_store, of_manifest)
    ]
    assert both[0] == both[1] and len(both[0]) == len(of_store)
    with pytest.raises(ConfigError, match="no split 'x'"):
        ManifestSource(chain / "corpus" / "manifest.jsonl", projector, "x", 4)
