"""Retry: only the rejected, once each, whatever becomes of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sm_pipeline.config import TargetConfig
from sm_pipeline.extraction.embed import embed
from sm_pipeline.extraction.extract import extract
from sm_pipeline.extraction.repair import repair
from sm_pipeline.extraction.retry import retry
from sm_store import Store
from sm_store.convert import export
from sm_store.errors import IdentityMismatch, ManifestError, StoreMissing
from sm_store.verify import verify
from tests.pipeline.extraction.test_extract import config, files_of
from tests.speech import write_audio, write_lines

MISSING = (1, 4, 5, 8)  # of ten utterances, three a shard


@pytest.fixture
def corpus(tmp_path):
    """Ten utterances of which four have no audio yet."""
    lines = []
    for number in range(10):
        lines.append({"id": f"u{number}", "audio": f"{number}.wav", "text": "a b", "duration": 1.5})
        if number not in MISSING:
            write_audio(tmp_path / "corpus" / f"{number}.wav", 1.5, seed=number)
    return write_lines(tmp_path / "corpus" / "manifest.jsonl", lines)


@pytest.fixture
def settings(corpus, tmp_path, tiny_llm):
    made = config(corpus, tmp_path / "s.store", shard_utterances=3, targets=TargetConfig(str(tiny_llm)))
    summary = extract(made)
    assert (summary.written, summary.rejects) == (6, {"audio_missing": 4})
    return made


def mend(settings, *numbers: int) -> None:
    for number in numbers:
        write_audio(settings.manifest.parent / f"{number}.wav", 1.5, seed=number)


def ids(store) -> list[str]:
    return [record.id for record in Store.open(store)]


def test_a_folder_of_audio_that_was_named_wrongly_can_be_named_again(settings, tmp_path):
    elsewhere = tmp_path / "audio"
    settings.manifest.parent.joinpath("manifest.jsonl").rename(tmp_path / "m.jsonl")
    settings.manifest.parent.rename(elsewhere)
    write_audio(elsewhere / "1.wav", 1.5, seed=1)
    assert retry(settings.store, tmp_path / "m.jsonl").extracted == 0
    summary = retry(settings.store, tmp_path / "m.jsonl", audio_root=elsewhere)
    assert (summary.extracted, summary.rejects) == (1, {"audio_missing": 3})
    damaged = sorted(path for path in (settings.store / "shards").rglob("*") if path.is_file())[0]
    damaged.write_bytes(b"")
    assert not verify(settings.store).ok
    repair(settings.store, tmp_path / "m.jsonl", audio_root=elsewhere)
    assert verify(settings.store).ok


def test_what_is_good_now_is_extracted_and_the_rest_stays_rejected(settings, tmp_path):
    before = files_of(settings.store)
    mend(settings, 1, 8)
    summary = retry(settings.store)
    assert (summary.tried, summary.extracted, summary.rejects) == (4, 2, {"audio_missing": 2})
    assert summary.shards == [4, 5]  # shards 0 to 3 are planned; of three rejected each is a unit
    assert "2 of 4 rejected utterances extracted into shards 4, 5; rejected again 2" in summary.in_words()
    store = Store.open(settings.store)
    assert [record.id for record in store] == ["u0", "u2", "u3", "u6", "u7", "u9", "u1", "u8"]
    assert [entry.id for entry in store.rejects()] == ["u4", "u5"]
    assert len(store.read(np.arange(8), targets=store.target_names[0]).frames_B) == 8
    after = files_of(settings.store)
    assert {name: after[name] for name in before} == before  # nothing that was there has changed
    assert verify(settings.store).ok


def test_features_are_those_of_an_extraction_where_all_was_good(settings, tmp_path):
    mend(settings, *MISSING)
    assert retry(settings.store).extracted == 4
    whole = config(settings.manifest, tmp_path / "whole.store")
    extract(whole)
    expected = {record.id: record.features for record in Store.open(whole.store)}
    got = {record.id: record.features for record in Store.open(settings.store)}
    assert sorted(got) == sorted(expected)
    for name, features in got.items():
        np.testing.assert_allclose(features.astype(np.float32), expected[name].astype(np.float32), atol=2e-3)


def test_again_and_again_each_is_there_once(settings):
    assert retry(settings.store).extracted == 0
    assert ids(settings.store) == ["u0", "u2", "u3", "u6", "u7", "u9"]
    for number in MISSING:
        mend(settings, number)
        assert retry(settings.store).extracted == 1
    assert sorted(ids(settings.store)) == [f"u{number}" for number in range(10)]
    last = retry(settings.store)
    assert (last.tried, last.in_words()) == (0, f"{settings.store}: nothing is rejected, nothing to do")
    assert extract(settings).shards_done == 0
    assert verify(settings.store).ok


def test_all_target_sets_get_what_was_retried(settings, tiny_llm):
    embed(settings.store, TargetConfig(str(tiny_llm), kind="table", name="later"))
    mend(settings, *MISSING)
    retry(settings.store)
    store = Store.open(settings.store)
    first, later = (store.targets(name) for name in ("tiny-llm", "later"))
    indices = np.arange(10)
    expected = store.read(indices, targets=first.name).targets_BUE
    assert np.array_equal(store.read(indices, targets=later.name).targets_BUE, expected)


def test_a_bad_shard_of_retried_utterances_is_dropped_and_retried(settings):
    mend(settings, 1, 8)
    retry(settings.store)
    data = settings.store / "shards" / "00004" / "features" / "c" / "0" / "0"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    summary = repair(settings.store, device="cpu")
    assert (summary.shards, summary.dropped) == ([], [4])
    assert "dropped: shards 4 of retried utterances; `sm-pipeline retry` makes them again" in summary.in_words()
    assert "u1" in {entry.id for entry in Store.open(settings.store).rejects()}
    assert retry(settings.store).extracted == 1
    assert sorted(ids(settings.store)) == ["u0", "u1", "u2", "u3", "u6", "u7", "u8", "u9"]
    assert verify(settings.store).ok


def test_a_shard_made_again_takes_back_what_was_retried(settings):
    """Made again, shard 0 holds u1, whose audio is good by now; so the shard that u1 was retried into must go."""
    mend(settings, *MISSING)
    retry(settings.store)
    (settings.store / "shards" / "00000" / "features" / "zarr.json").write_text("torn")
    summary = repair(settings.store, device="cpu")
    assert (summary.shards, summary.dropped) == ([0], [4])
    retry(settings.store)
    assert sorted(ids(settings.store)) == [f"u{number}" for number in range(10)]
    assert verify(settings.store).ok


def test_another_manifest_is_refused(settings, tmp_path):
    other = write_lines(tmp_path / "corpus" / "other.jsonl", [{"id": "u0", "audio": "0.wav", "text": "a"}])
    with pytest.raises(IdentityMismatch, match="manifest_sha256"):
        retry(settings.store, other)
    with pytest.raises(ManifestError, match="no such manifest"):
        retry(settings.store, tmp_path / "none.jsonl")


def test_an_exported_store_is_refused_with_the_place_to_go(settings, tmp_path):
    export(settings.store, tmp_path / "tars", "webdataset")
    with pytest.raises(StoreMissing, match="not made by `sm-pipeline extract`; do this to what it was exported"):
        retry(tmp_path / "tars")


def test_the_command(settings):
    mend(settings, *MISSING)
    command = [sys.executable, "-m", "sm_pipeline.cli", "retry", str(settings.store), "--device", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (
        0,
        f"{settings.store}: 4 of 4 rejected utterances extracted into shards 4, 5\n",
    )
