"""One work unit: features equal to the plain way, every utterance in the shard or in the ledger."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sm_pipeline.audio import Cut, read_audio
from sm_pipeline.config import TargetConfig
from sm_pipeline.encoders import load_encoder
from sm_pipeline.extraction.encoding import store_features
from sm_pipeline.extraction.llm_targets import build_targets
from sm_pipeline.extraction.plan import UnitRule, plan_units
from sm_pipeline.extraction.unit import UnitWork, UnitWorker, WorkerSetup, check_usable
from sm_pipeline.manifest import read_manifest
from sm_store import Geometry, Identity, Store
from sm_store.errors import SampleError
from tests.speech import tone, write_audio, write_lines


class ConstantEncoder:
    """50 frames a second of the wave's first sample: features one can predict."""

    width, frame_rate, layer = 4, 50.0, 1

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def encode(self, waves):
        self.batches.append([len(wave) for wave in waves])
        frames = [len(wave) // 320 for wave in waves]
        features = torch.zeros(len(waves), max(frames), self.width)
        for row, (wave, count) in enumerate(zip(waves, frames, strict=True)):
            features[row, :count] = float(wave[0]) if len(wave) else 0.0
        return features, frames

    def identity(self):
        return {"id": "constant", "width": self.width}

    def front_end(self):
        return {}


def setup_for(store: Store, root: Path, targets: str | None = None, **settings) -> WorkerSetup:
    return WorkerSetup(
        store=store.root,
        audio_root=root,
        targets=targets,
        encoder="tiny-seamless",
        layer=None,
        device="cpu",
        compute_dtype="float32",
        average=2,
        dtype=store.identity.dtype,
        **{"max_seconds": 60.0, "batch_seconds": 10.0, **settings},
    )


def make_store(path: Path, width: int = 4, dtype: str = "float16", layout: str = "zarr") -> Store:
    return Store.create(path, Identity(encoder={"width": width}, dtype=dtype, layout=layout))


def corpus(folder: Path, lines: list[dict]) -> list:
    return list(read_manifest(write_lines(folder / "m.jsonl", lines)).utterances)


def run(store: Store, root: Path, utterances, encoder=None, targets=None, **settings):
    (unit,) = plan_units(utterances, UnitRule(1.0))
    with closing(UnitWorker(setup_for(store, root, targets, **settings), encoder or ConstantEncoder())) as worker:
        result = worker.run_one(UnitWork(unit, tuple(utterances)))
    return result, Store.open(store.root)


# -- what can be stored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_when_stored(dtype, value):
    (stored,) = store_features(torch.full((1, 20, 2), value), [20], 1, dtype)
    with pytest.raises(SampleError, match="features_not_finite"):
        check_usable(stored, None, None, dtype)


def test_overflow_of_float16_is_noticed_and_float32_is_fine():
    features = torch.full((1, 20, 2), 70_000.0)
    with pytest.raises(SampleError, match="beyond the range of float16"):
        check_usable(store_features(features, [20], 1, "float16")[0], None, None, "float16")
    check_usable(store_features(features, [20], 1, "float32")[0], None, None, "float32")


# -- units ---------------------------------------------------------------------------------------------------


def test_the_real_encoder_and_the_plain_way_agree(tiny_corpus, tmp_path):
    """Batched, sorted and read ahead, features equal those of each utterance alone."""
    utterances = list(read_manifest(tiny_corpus).utterances)
    encoder = load_encoder("tiny-seamless", device="cpu")
    store = make_store(tmp_path / "s", encoder.width, "float32")
    result, done = run(store, tiny_corpus.parent, utterances, encoder, batch_seconds=7.0)
    assert (result.written, result.rejects) == (8, {})
    assert [record.id for record in done] == [utterance.id for utterance in utterances]
    for utterance, record in zip(utterances, done, strict=True):
        wave = read_audio(tiny_corpus.parent / utterance.audio, Cut(None, utterance.duration))
        (features,), (frames,) = encoder.encode([wave.samples])
        pairs = features[: frames // 2 * 2].reshape(frames // 2, 2, -1)
        np.testing.assert_allclose(record.features, pairs.mean(1).numpy(), atol=2e-5)
        assert record.fields == utterance.fields(wave.seconds)


def test_a_file_that_is_not_the_promised_one_is_rejected(tmp_path):
    path = write_audio(tmp_path / "a.wav", 1.5)
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [
        {"id": name, "audio": "a.wav", "text": "a", "sha256": each} for name, each in (("a", good), ("b", "0" * 64))
    ]
    result, done = run(make_store(tmp_path / "s"), tmp_path, corpus(tmp_path, lines))
    assert (result.written, result.rejects) == (1, {"checksum_mismatch": 1})
    assert [entry.id for entry in done.rejects()] == ["b"]


def test_batches_are_longest_first_and_within_the_budget(tmp_path):
    seconds = [1.0, 4.0, 2.0, 3.0, 0.5, 4.0]
    lines = []
    for number, each in enumerate(seconds):
        write_audio(tmp_path / f"{number}.wav", each)
        lines.append({"id": f"u{number}", "audio": f"{number}.wav", "text": "a", "duration": each})
    encoder = ConstantEncoder()
    run(make_store(tmp_path / "s"), tmp_path, corpus(tmp_path, lines), encoder, batch_seconds=8.0)
    assert [[count / 16_000 for count in batch] for batch in encoder.batches] == [[4, 4], [3, 2], [1, 0.5]]
    for line in lines:
        del line["duration"]  # then the file's header tells
    again = ConstantEncoder()
    run(make_store(tmp_path / "t"), tmp_path, corpus(tmp_path, lines), again, batch_seconds=8.0)
    assert again.batches == encoder.batches


def test_every_utterance_is_a_record_or_a_reject(tmp_path, tiny_llm):
    store = make_store(tmp_path / "s")
    build_targets(TargetConfig(str(tiny_llm)), "float16").add_to(store)
    write_audio(tmp_path / "good.wav", 3.0)
    write_audio(tmp_path / "long.wav", 8.0)
    write_audio(tmp_path / "blip.wav", 0.1)
    (tmp_path / "page.wav").write_text("<html>")
    nan = tone(1.0)
    nan[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", nan, 16_000, subtype="FLOAT")
    cases = {
        "ok": ("good.wav", "the old dog", {}),
        "gone": ("missing.wav", "the old dog", {}),
        "page": ("page.wav", "the old dog", {}),
        "nan": ("nan.wav", "the old dog", {}),
        "blip": ("blip.wav", "the", {}),
        "cut": ("good.wav", "the old dog", {"duration": 9.0}),
        "long": ("long.wav", "the old dog", {}),
        "mute": ("good.wav", "?!", {}),
        "wordy": ("good.wav", "the " * 18, {}),
        "fits": ("good.wav", "the " * 17, {}),
    }
    lines = [{"id": key, "audio": audio, "text": text} | more for key, (audio, text, more) in cases.items()]
    result, done = run(store, tmp_path, corpus(tmp_path, lines), ConstantEncoder(), targets="tiny-llm", max_seconds=7.0)
    assert Geometry().num_vectors(75) == 18  # 3 s: room for 17 tokens and a pad
    assert [record.id for record in done] == ["ok", "fits"]
    assert {reject.id: reject.reason for reject in done.rejects()} == {
        "gone": "audio_missing",
        "page": "audio_format",
        "nan": "audio_not_finite",
        "blip": "too_short",
        "cut": "too_long",
        "long": "too_long",
        "mute": "text_empty",
        "wordy": "text_too_long",
    }
    assert (result.utterances, result.written, sum(result.rejects.values())) == (10, 2, 8)
    assert done.token_counts("tiny-llm").tolist() == [3, 17]
    assert all(reject.detail for reject in done.rejects())


def test_features_that_are_not_finite_are_rejected_alone(tmp_path):
    class Broken(ConstantEncoder):
        def encode(self, waves):
            features, frames = super().encode(waves)
            features[0, 3] = torch.nan
            return features, frames

    lines = []
    for number in range(3):
        write_audio(tmp_path / f"{number}.wav", 1.0 + number)
        lines.append({"id": f"u{number}", "audio": f"{number}.wav", "text": "a"})
    _, done = run(make_store(tmp_path / "s"), tmp_path, corpus(tmp_path, lines), Broken(), batch_seconds=9.0)
    assert [record.id for record in done] == ["u0", "u1"]
    assert [(each.id, each.reason) for each in done.rejects()] == [("u2", "features_not_finite")]


@pytest.mark.parametrize("layout", ["zarr", "webdataset"])
def test_a_unit_without_any_usable_utterance(tmp_path, layout):
    utterances = corpus(tmp_path, [{"id": f"u{n}", "audio": "no.wav", "text": "a"} for n in range(3)])
    result, done = run(make_store(tmp_path / "s", layout=layout), tmp_path, utterances)
    assert (result.written, result.rejects, len(done)) == (0, {"audio_missing": 3}, 0)
    assert done.done_shards() == {0}


def test_segments_of_one_file(tmp_path):
    write_audio(tmp_path / "talk.wav", 9.0)
    lines = [{"id": f"u{n}", "audio": "talk.wav", "text": "a", "offset": 2.0 * n, "duration": 2.0} for n in range(4)]
    _, done = run(make_store(tmp_path / "s", dtype="float32"), tmp_path, corpus(tmp_path, lines))
    samples = soundfile.read(tmp_path / "talk.wav", dtype="float32")[0]
    assert [record.features[0, 0] for record in done] == [samples[32_000 * n] for n in range(4)]


def test_audio_that_utterances_share_is_read_and_encoded_once(tmp_path):
    for name, seconds in (("one", 3.0), ("two", 2.0)):
        write_audio(tmp_path / f"{name}.wav", seconds)
    questions = [
        {"id": "q0", "audio": "one.wav", "text": "a", "question": "Who?"},
        {"id": "gone", "audio": "no.wav", "text": "a", "question": "Who?"},
        {"id": "gone too", "audio": "no.wav", "text": "a", "question": "When?"},
        {"id": "q1", "audio": "one.wav", "text": "a", "question": "When?"},
        {"id": "mute", "audio": "one.wav", "text": "?!", "question": "Why?"},
        {"id": "other", "audio": "two.wav", "text": "a"},
        {"id": "part", "audio": "one.wav", "text": "a", "offset": 1.0},
        {"id": "q2", "audio": "one.wav", "text": "a", "question": "Why?"},
    ]
    encoder, advanced = ConstantEncoder(), []
    utterances = corpus(tmp_path, questions)
    with closing(UnitWorker(setup_for(make_store(tmp_path / "s"), tmp_path), encoder)) as worker:
        unit = plan_units(utterances, UnitRule(1.0))[0]
        result = worker.run_one(UnitWork(unit, tuple(utterances)), advanced.append)
    assert sorted(length for batch in encoder.batches for length in batch) == [32_000, 32_000, 48_000]
    assert result.audio_seconds == 3.0 + 2.0 + 2.0 and sum(advanced) == len(questions)
    done = {record.id: record for record in Store.open(tmp_path / "s")}
    assert list(done) == ["q0", "q1", "other", "part", "q2"]
    assert [done[name].question for name in ("q0", "q1", "q2")] == ["Who?", "When?", "Why?"]
    for name in ("q0", "q1", "q2"):
        assert done[name].fields.duration == 3.0
        np.testing.assert_array_equal(done[name].features, done["q0"].features)
    assert {each.id: each.reason for each in Store.open(tmp_path / "s").rejects()} == {
        "gone": "audio_missing",
        "gone too": "audio_missing",
        "mute": "text_empty",
    }


def test_a_committed_unit_is_skipped_and_a_held_one_is_busy(tmp_path):
    write_audio(tmp_path / "a.wav", 1.0)
    utterances = corpus(tmp_path, [{"id": "u", "audio": "a.wav", "text": "a"}])
    store = make_store(tmp_path / "s")
    with store.claim(0):
        result, _ = run(store, tmp_path, utterances)
        assert result.busy
        assert not result.skipped
    first, _ = run(store, tmp_path, utterances)
    assert (first.busy, first.skipped, first.written) == (False, False, 1)
    second, done = run(store, tmp_path, utterances)
    assert second.skipped
    assert len(done) == 1


def test_an_encoder_that_fails_commits_nothing(tmp_path):
    class Failing(ConstantEncoder):
        def encode(self, waves):
            raise RuntimeError("out of memory")

    write_audio(tmp_path / "a.wav", 1.0)
    store = make_store(tmp_path / "s")
    utterances = corpus(tmp_path, [{"id": "u", "audio": "a.wav", "text": "a"}])
    with pytest.raises(RuntimeError, match="out of memory"):
        run(store, tmp_path, utterances, Failing())
    assert store.done_shards() == set()
    assert run(store, tmp_path, utterances)[0].written == 1  # the shard's lock is free again


def test_the_callers_threads_come_back(tmp_path):
    class Counting(ConstantEncoder):
        def encode(self, waves):
            self.threads = torch.get_num_threads()
            return super().encode(waves)

    write_audio(tmp_path / "a.wav", 1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encoder = Counting()
        run(
            make_store(tmp_path / "s"),
            tmp_path,
            corpus(tmp_path, [{"id": "u", "audio": "a.wav", "text": "a"}]),
            encoder,
        )
        assert (encoder.threads, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)


def test_figures_add_up(tmp_path):
    lines = []
    for number in range(4):
        write_audio(tmp_path / f"{number}.wav", 1.0 + number)
        lines.append({"id": f"u{number}", "audio": f"{number}.wav", "text": "a"})
    advanced: list[int] = []
    utterances = corpus(tmp_path, lines)
    setup = replace(setup_for(make_store(tmp_path / "s"), tmp_path), batch_seconds=8.0)
    with closing(UnitWorker(setup, ConstantEncoder())) as worker:
        result = worker.run_one(UnitWork(plan_units(utterances, UnitRule(1.0))[0], tuple(utterances)), advanced.append)
    assert result.audio_seconds == 10.0
    assert result.padded_seconds == 2 * 4.0 + 2 * 2.0
    assert sum(advanced) == 4
    assert set(result.seconds) == {"read", "encode", "commit"}
