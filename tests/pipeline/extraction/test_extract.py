"""Extraction as a whole: made once, continued, refused, and the same store however it was made."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.encoders import load_encoder
from sm_pipeline.extraction import extract as extract_module
from sm_pipeline.extraction.engines.local import default_workers
from sm_pipeline.extraction.extract import Summary, extract
from sm_pipeline.extraction.retry import retry
from sm_pipeline.text import normalise
from sm_store import Store
from sm_store.errors import IdentityMismatch, InputError, ManifestError, ModelError, RunFailed, StoreError
from sm_store.verify import verify
from tests.speech import write_audio, write_corpus, write_lines


def config(manifest: Path, store: Path, **settings) -> ExtractConfig:
    return ExtractConfig(manifest, store, **{"encoder": "tiny-seamless", "device": "cpu", "workers": 1, **settings})


def files_of(store: Path) -> dict[str, bytes]:
    """Every byte of a store."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


@pytest.fixture(scope="module")
def made(tiny_corpus, tiny_llm, tmp_path_factory):
    """A finished store of three shards with targets, and the summary of its making. Read only."""
    path = tmp_path_factory.mktemp("made") / "s.store"
    settings = config(tiny_corpus, path, shard_utterances=3, targets=TargetConfig(str(tiny_llm)))
    return settings, extract(settings)


def test_what_is_in_the_store(made, tiny_corpus):
    settings, summary = made
    store = Store.open(settings.store)
    assert (summary.utterances, summary.written, summary.rejected) == (8, 8, 0)
    assert (summary.shards, summary.shards_done, summary.workers) == (3, 3, 1)
    assert summary.hours == pytest.approx(sum(record.duration for record in store) / 3600)
    assert summary.x_realtime > 0
    assert 0 <= summary.padding < 1
    assert set(summary.parts) == {"read", "encode", "commit"}
    assert [record.id for record in store] == [f"u{number}" for number in range(8)]
    assert store[0].features.dtype == np.float16
    assert verify(settings.store).ok
    assert "features" in zarr.open_group(settings.store / "shards" / "00000", mode="r")


def test_the_identity_says_how_it_was_made(made):
    identity = Store.open(made[0].store).identity
    assert identity.encoder["id"] == "tiny-seamless"
    assert (identity.encoder["layer"], identity.encoder["width"], identity.average) == (2, 256, 2)
    assert (identity.frame_rate, identity.dtype, identity.normalizer) == (25.0, "float16", "mms-2")
    assert len(identity.encoder["weights_sha256"]) == len(identity.manifest_sha256) == 64
    assert identity.front_end["resampler"] == "soxr-hq"
    assert identity.plan["shards"] == 3
    assert set(identity.packages) == {"numpy", "soundfile", "soxr", "torch", "transformers"}


def test_targets_are_the_texts_tokens_then_pads(made, tiny_llm):
    store = Store.open(made[0].store)
    targets = store.targets("tiny-llm")
    batch = store.read(range(8), targets="tiny-llm")
    for row, record in enumerate(store):
        count = len(normalise(record.text).split())
        assert batch.tokens_B[row] == count
        expected = np.vstack([targets.table[batch.token_ids[row]], targets.table[[0]]]).astype(np.float16)
        vectors = batch.vectors_B[row]
        np.testing.assert_array_equal(batch.targets_BUE[row, :count], expected[:-1])
        np.testing.assert_array_equal(
            batch.targets_BUE[row, count:vectors], np.broadcast_to(expected[-1], (vectors - count, 16))
        )


def test_numbers_are_a_choice_that_the_store_records(tmp_path, tiny_llm):
    lines = [
        {"id": name, "audio": "a.wav", "text": text}
        for name, text in (("one", "It's 5 o'clock (12)."), ("two", "20 30"))
    ]
    write_audio(tmp_path / "a.wav", 3.0)
    manifest = write_lines(tmp_path / "manifest.jsonl", lines)
    settings = config(manifest, tmp_path / "s.store", targets=TargetConfig(str(tiny_llm)), numbers="remove")
    assert extract(settings).rejects == {"text_empty": 1}
    store = Store.open(settings.store)
    name = "mms-2-numbers-removed"
    assert store.identity.normalizer == store.targets("tiny-llm").spec.normalizer == name
    assert store.token_counts("tiny-llm").tolist() == [2]  # "it's o'clock"
    assert extract(replace(settings, numbers=None)).shards_done == 0
    with pytest.raises(IdentityMismatch, match='normalizer: "mms-2-numbers-removed" != "mms-2"'):
        extract(replace(settings, numbers="keep"))


def test_a_store_is_continued_with_the_normaliser_it_was_begun_with(tiny_corpus, tiny_llm, tmp_path, monkeypatch):
    settings = config(tiny_corpus, tmp_path / "s.store", shard_utterances=3)
    with monkeypatch.context() as earlier:
        earlier.setattr("sm_pipeline.extraction.extract.NORMALIZER", "mms-1")
        extract(settings)
    shutil.rmtree(settings.store / "shards" / "00001")
    (settings.store / "catalog" / "00001.parquet").unlink()
    summary = extract(replace(settings, targets=TargetConfig(str(tiny_llm))))
    assert summary.shards_done == 1
    store = Store.open(settings.store)
    assert store.identity.normalizer == store.targets("tiny-llm").spec.normalizer == "mms-1"
    assert verify(settings.store).ok


def test_again_it_does_nothing(made):
    settings, _ = made
    before = {path: path.stat().st_mtime_ns for path in settings.store.rglob("*") if path.is_file()}
    summary = extract(settings)
    assert (summary.shards_done, summary.hours, summary.written) == (0, 0.0, 8)
    assert "nothing to do" in summary.in_words()
    assert {path: path.stat().st_mtime_ns for path in settings.store.rglob("*") if path.is_file()} == before


def test_two_workers_make_the_same_store(made, tmp_path):
    settings = replace(made[0], store=tmp_path / "two.store", workers=2)
    summary = extract(settings)
    assert (summary.workers, summary.shards_done) == (2, 3)
    assert files_of(settings.store) == files_of(made[0].store)


def test_an_interrupted_store_is_continued_to_the_same_bytes(made, tmp_path):
    settings = replace(made[0], store=tmp_path / "half.store")
    extract(settings)
    (settings.store / "catalog" / "00001.parquet").unlink()  # as if killed before this shard's commit
    (settings.store / "shards" / "00001" / "zarr.json").write_text("torn")
    (settings.store / "shards" / ".00001.tmp-1-dead").mkdir()
    summary = extract(settings)
    assert (summary.shards_done, summary.written) == (1, 8)
    assert files_of(settings.store) == files_of(made[0].store)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": 1}, "encoder.layer: 2 != 1"),
        ({"average": 1}, "average: 2 != 1"),
        ({"dtype": "float32"}, 'dtype: "float16" != "float32"'),
        ({"layout": "webdataset"}, 'layout: "zarr" != "webdataset"'),
        ({"split": "train"}, 'split: null != "train"'),
        ({"shard_utterances": 4}, "plan.max_utterances: 3 != 4"),
        ({"max_seconds": 9.0}, "front_end.max_seconds: 60.0 != 9.0"),
    ],
)
def test_a_store_made_differently_is_refused_with_the_difference(made, change, said):
    settings = replace(made[0], **change)
    before = files_of(settings.store)
    with pytest.raises(IdentityMismatch) as refused:
        extract(settings)
    assert str(settings.store) in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert files_of(settings.store) == before


def test_another_manifest_is_refused(made, tiny_corpus, tmp_path):
    lines = tiny_corpus.read_text().splitlines()
    other = tiny_corpus.parent / "shorter.jsonl"
    other.write_text("\n".join(lines[:6]) + "\n")
    with pytest.raises(IdentityMismatch, match="manifest_sha256"):
        extract(replace(made[0], manifest=other))


def test_settings_that_do_not_change_the_bytes_are_free(made):
    assert extract(replace(made[0], workers=2, max_rejects=0)).shards_done == 0


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"encoder": "tinny"}, ModelError, "--encoder tinny"),
        ({"layer": 3}, ModelError, "layers 1 to 2"),
        ({"split": "nope"}, ManifestError, "no utterance of split 'nope'"),
        ({"manifest": Path("nope.jsonl")}, ManifestError, "no such manifest"),
        ({"targets": TargetConfig("nope-llm")}, ModelError, "--llm nope-llm"),
    ],
)
def test_bad_input_makes_no_store(tiny_corpus, tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        extract(replace(config(tiny_corpus, tmp_path / "s.store"), **change))
    assert not (tmp_path / "s.store").exists()


def test_only_a_split(tiny_corpus, tmp_path):
    summary = extract(config(tiny_corpus, tmp_path / "s.store", split="dev"))
    store = Store.open(tmp_path / "s.store")
    assert (summary.utterances, store.identity.split) == (2, "dev")
    assert [record.split for record in store] == ["dev", "dev"]


@pytest.mark.parametrize("kind", ["dense", "table"])
def test_the_other_layout_holds_the_same(made, tmp_path, tiny_llm, kind):
    settings = replace(
        made[0], store=tmp_path / "w.store", layout="webdataset", targets=TargetConfig(str(tiny_llm), kind=kind)
    )
    extract(settings)
    one, two = (Store.open(path).read(range(8), "tiny-llm") for path in (made[0].store, settings.store))
    np.testing.assert_array_equal(one.features_BTD, two.features_BTD)
    np.testing.assert_array_equal(one.targets_BUE, two.targets_BUE)


def test_an_llm_named_later_is_added_to_shards_already_there(made, tmp_path):
    bare = replace(made[0], store=tmp_path / "later.store", targets=None)
    extract(bare)
    assert Store.open(bare.store).target_names == []
    summary = extract(replace(bare, targets=made[0].targets))
    assert summary.shards_done == 0
    np.testing.assert_array_equal(
        Store.open(bare.store).token_counts("tiny-llm"), Store.open(made[0].store).token_counts("tiny-llm")
    )
    assert verify(bare.store).ok


# -- rejects -------------------------------------------------------------------------------------------------


@pytest.fixture
def patchy(tmp_path):
    """A manifest of nine utterances in shards of three, of which every third is missing."""
    write_audio(tmp_path / "a.wav", 1.0)
    names = ["a.wav", "a.wav", "gone.wav"] * 3
    lines = [{"id": f"u{n}", "audio": name, "text": "a", "duration": 1.0} for n, name in enumerate(names)]
    return config(write_lines(tmp_path / "m.jsonl", lines), tmp_path / "s.store", shard_utterances=3)


def test_missing_files_are_rejects_and_the_run_goes_on(patchy):
    summary = extract(patchy)
    assert (summary.written, summary.rejected, summary.rejects) == (6, 3, {"audio_missing": 3})
    assert summary.failure(None) is None
    assert summary.failure(3) is None
    assert "3 utterances were rejected (audio_missing: 3); --max-rejects allows 2" in (summary.failure(2) or "")
    ids = {reject.id for reject in Store.open(patchy.store).rejects()}
    assert ids == {"u2", "u5", "u8"}
    assert "rejected 3 (audio_missing 3)" in summary.in_words()


def test_too_many_rejects_end_the_run_early_and_keep_what_is_done(patchy):
    with pytest.raises(RunFailed, match=r"2 utterances rejected so far, --max-rejects allows 1"):
        extract(replace(patchy, max_rejects=1))
    assert Store.open(patchy.store).done_shards() == {0, 1}
    assert extract(patchy).shards_done == 1


def test_a_run_that_rejected_everything_has_failed(tmp_path):
    lines = [{"id": f"u{n}", "audio": "gone.wav", "text": "a"} for n in range(4)]
    settings = config(write_lines(tmp_path / "m.jsonl", lines), tmp_path / "s.store")
    for _ in range(2):  # and stays failed when it finds everything done
        summary = extract(settings)
        assert "every utterance was rejected (audio_missing: 4)" in (summary.failure(None) or "")
        assert "with --audio-root; then `sm-pipeline retry " in (summary.failure(None) or "")
    assert f"nothing to do; `sm-pipeline retry {settings.store}`" in summary.in_words()


def test_a_forgotten_audio_root_is_mended_as_the_message_says(tmp_path):
    write_audio(tmp_path / "audio" / "a.wav", 2.0)
    manifest = write_lines(tmp_path / "lists" / "m.jsonl", [{"id": "a", "audio": "a.wav", "text": "one two"}])
    settings = config(manifest, tmp_path / "s.store")
    assert extract(settings).rejects == {"audio_missing": 1}
    assert extract(replace(settings, audio_root=tmp_path / "audio")).written == 0
    assert retry(settings.store, device="cpu").extracted == 1


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (TargetConfig("no-such-llm"), "--llm no-such-llm: no such preset or folder"),
        (TargetConfig("{tmp}"), "its tokenizer cannot be loaded"),
        (TargetConfig("{llm}", pad_token="<nope>"), "--pad-token '<nope>': not a token of"),
        (TargetConfig("{llm}", name="a/b"), "target set name"),
    ],
)
def test_an_llm_that_cannot_be_is_refused_before_the_encoder_is_loaded(
    tiny_corpus, tiny_llm, tmp_path, monkeypatch, targets, said
):
    monkeypatch.setattr(extract_module, "load_encoder", lambda *_: pytest.fail("loaded the encoder"))
    (tmp_path / "config.json").write_text("{}")
    llm = targets.llm.format(tmp=tmp_path, llm=tiny_llm)
    with pytest.raises(InputError, match=re.escape(said)):
        extract(config(tiny_corpus, tmp_path / "s.store", targets=replace(targets, llm=llm)))
    assert not (tmp_path / "s.store").exists()


def test_a_disk_without_room_is_refused_before_the_store_is_made(made, tmp_path, monkeypatch):
    settings = replace(made[0], store=tmp_path / "s.store")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(StoreError, match=r"what is to be extracted takes about .* GB are free on its disk"):
        extract(settings)
    assert not settings.store.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert extract(made[0]).shards_done == 0  # a finished store needs none


def test_a_manifest_that_grew_is_told_the_way(made, tmp_path):
    corpus = made[0].manifest.parent
    grown = tmp_path / "m.jsonl"
    grown.write_text(made[0].manifest.read_text() + '{"id": "new", "audio": "audio/u0.wav", "text": "one"}\n')
    with pytest.raises(IdentityMismatch, match=r"manifest_sha256: .*into a second store, and join .*sm-pipeline merge"):
        extract(replace(made[0], manifest=grown, audio_root=corpus))
    with pytest.raises(IdentityMismatch) as other:
        extract(replace(made[0], average=1))
    assert "merge" not in str(other.value)


def test_a_slow_encoder_is_announced(tiny_corpus, monkeypatch, capsys):
    def slow(*arguments):
        time.sleep(1.3)
        return load_encoder(*arguments)

    monkeypatch.setattr(extract_module, "load_encoder", slow)
    extract_module.prepare(config(tiny_corpus, Path("unused")))
    assert "loading encoder tiny-seamless ..." in capsys.readouterr().err


def test_no_work_is_no_failure_without_rejects():
    figures = dict.fromkeys(("hours", "seconds", "x_realtime", "padding", "hours_per_device_hour"), 0.0)
    summary = Summary("s", 3, 3, 0, {}, 1, 0, **figures, halved=0, parts={}, workers=1, device="core")
    assert summary.failure(0) is None


def test_workers_by_default():
    cores = len(os.sched_getaffinity(0))
    assert default_workers("cpu", 30.0) == 1  # not worth starting another process
    assert default_workers("cpu", 1e9) == cores
    assert default_workers("cuda:1", 1e9) == 1


# -- stopping ------------------------------------------------------------------------------------------------

COMMAND = "from sm_pipeline.cli import main; main()"


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_stops_in_order_and_the_same_command_continues(tmp_path, workers):
    manifest = write_corpus(tmp_path / "corpus", 60)
    arguments = ["extract", str(manifest), "--encoder", "tiny-seamless", "--shard-utterances", "3", "--device", "cpu"]
    arguments += ["--workers", str(workers), "--store"]
    store = tmp_path / "s.store"
    run = [sys.executable, "-c", COMMAND, *arguments]
    process = subprocess.Popen([*run, str(store)], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (store / "catalog" / "00001.parquet").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert messages.splitlines()[-1] == "stopped by SIGTERM; run the same command again to continue"
    assert "Traceback" not in messages
    assert 0 < len(Store.open(store).done_shards()) < 20
    assert not verify(store).damages
    assert extract(config(manifest, store, shard_utterances=3)).written == 60
    assert extract(config(manifest, tmp_path / "undisturbed", shard_utterances=3)).written == 60
    assert files_of(store) == files_of(tmp_path / "undisturbed")


def wait_for(ready, process: subprocess.Popen, limit: float = 120.0) -> None:
    until = time.monotonic() + limit
    while not ready():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
