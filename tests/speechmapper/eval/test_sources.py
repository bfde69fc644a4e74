"""Speech to evaluate on: a store, or a manifest's audio."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sm_store.errors import ConfigError, ModelError, RunFailed
from speechmapper.audio_features import Listening
from speechmapper.eval.predict import PredictRequest, predict
from speechmapper.eval.sources import ManifestSource, StoreSource, matching_target
from speechmapper.saved_projector import load_projector
from tests import speech


def rejects_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def questions(chain, folder: Path, asked: int) -> Path:
    """A manifest with several questions about each of two recordings, in turn, and one that is broken."""
    shutil.copytree(chain / "corpus" / "audio", folder / "audio")
    lines = [json.loads(line) for line in (chain / "corpus" / "manifest.jsonl").read_text().splitlines()][:3]
    (folder / lines[2]["audio"]).write_bytes(b"")
    return speech.write_lines(
        folder / "manifest.jsonl",
        [line | {"id": f"{line['id']}-{number}", "split": "test"} for number in range(asked) for line in lines],
    )


def counted_features(monkeypatch) -> list[int]:
    """How many waves each call of the encoder is given, from now on."""
    calls, features = [], Listening.features

    def counting(listening, waves):
        calls.append(len(waves))
        return features(listening, waves)

    monkeypatch.setattr(Listening, "features", counting)
    return calls


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_audio_that_utterances_share_is_encoded_once(chain, tmp_path, monkeypatch, batch):
    manifest = questions(chain, tmp_path, asked=3)
    calls = counted_features(monkeypatch)
    request = PredictRequest(chain / "stage1", tmp_path / "out", manifest=manifest, device="cpu", batch=batch)
    lines = predict(request)
    assert sum(calls) == 2
    assert [line["id"] for line in lines] == [f"u{each}-{number}" for number in range(3) for each in range(2)]
    whole = PredictRequest(
        chain / "stage1", tmp_path / "a", manifest=chain / "corpus" / "manifest.jsonl", split="train"
    )
    alone = {line["id"]: line["output"] for line in predict(whole)}
    assert all(line["output"] == alone[line["id"][:2]] for line in lines)
    assert {line["id"] for line in rejects_of(tmp_path / "out")} == {"u2-0", "u2-1", "u2-2"}


def test_degraded_audio_is_each_utterances_own(chain, tmp_path, monkeypatch):
    calls = counted_features(monkeypatch)
    source = ManifestSource(
        questions(chain, tmp_path, asked=3), load_projector(chain / "stage1"), None, 50, lambda wave, _: wave
    )
    heard = [number for batch in source.batches(source.numbers()) for number in batch.numbers]
    assert sum(calls) == len(heard) == 6


def test_a_file_that_is_not_the_one_the_manifest_describes_is_rejected(chain, tmp_path):
    manifest = questions(chain, tmp_path, asked=1)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    speech.write_lines(manifest, [lines[0] | {"sha256": "0" * 64}, lines[1]])
    assert [line["id"] for line in predict(PredictRequest(chain / "stage1", tmp_path, manifest=manifest))] == ["u1-0"]
    assert [(line["id"], line["reason"]) for line in rejects_of(tmp_path)] == [("u0-0", "checksum_mismatch")]


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
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["id"], reject["reason"]) == ("u0", "audio_unreadable") and Path(broken).name in reject["detail"]
    (tmp_path / "audio" / Path(whole).name).unlink()
    with pytest.raises(RunFailed, match="no audio of its 2 utterances"):
        predict(dataclasses.replace(request, out=tmp_path / "none"))
    assert [(line["id"], line["reason"]) for line in rejects_of(tmp_path / "none")] == [
        ("u0", "audio_unreadable"),
        ("u1", "audio_missing"),
    ]


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
    assert (len(everything.rejects()), everything.split) == (0, "train")
    frames = sorted(world.store.frames[world.store.select(split="train")].tolist())
    projector.config.kernel_sizes = [frames[3], 1]  # of the first three utterances no frame is left
    projector.config.paddings = [0, 0]
    shorter = StoreSource(world.path, projector, "train", 4)
    assert len(shorter.rejects()) == sum(count < frames[3] for count in frames) > 0
    assert len(shorter) + len(shorter.rejects()) == len(everything)
    kept = {shorter.id(number) for number in shorter.numbers()}
    assert {reject.id for reject in shorter.rejects()} == {everything.id(n) for n in everything.numbers()} - kept
    assert {(reject.reason, reject.detail) for reject in shorter.rejects()} == {
        ("too_short", f"{count} frames; one vector takes {frames[3]}") for count in frames if count < frames[3]
    }


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


def test_the_encoder_named_takes_the_place_of_the_recorded_one_if_it_has_its_weights(chain, tmp_path):
    manifest = chain / "corpus" / "manifest.jsonl"
    request = PredictRequest(
        chain / "stage1", tmp_path / "a", manifest=manifest, split="train", encoder="tiny-seamless"
    )
    assert len(predict(request)) == 2
    with pytest.raises(ModelError, match="--encoder nowhere"):
        predict(dataclasses.replace(request, out=tmp_path / "b", encoder="nowhere"))
    with pytest.raises(ConfigError, match="--encoder: a store has its features already"):
        PredictRequest(chain / "stage1", tmp_path / "c", chain / "store", encoder="tiny-seamless")
