"""What `plan` says against what `extract` then writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.corpora.demo import write_demo_corpus
from sm_pipeline.extraction.extract import extract
from sm_pipeline.extraction.forecast import forecast
from sm_store import Store
from sm_store.errors import ManifestError
from tests.speech import write_corpus, write_lines


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Manifest of a demo corpus."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo_corpus(folder, 150)
    return folder / "manifest.jsonl"


@pytest.mark.parametrize(
    ("compression", "kind", "dtype", "layout"),
    [
        ("none", "dense", "float16", "zarr"),
        ("none", "table", "float32", "zarr"),
        ("int8", "dense", "bfloat16", "zarr"),
        ("none", "dense", "float16", "webdataset"),
        ("none", "table", "float16", "webdataset"),
    ],
)
def test_gigabytes_and_shards_are_those_that_extract_writes(tmp_path, demo, tiny_llm, compression, kind, dtype, layout):
    config = ExtractConfig(
        demo, tmp_path / "s", encoder="tiny-seamless", device="cpu", workers=1, dtype=dtype, layout=layout,
        compression=compression, shard_utterances=64, targets=TargetConfig(str(tiny_llm), kind=kind, name="llm"),
    )  # fmt: skip
    said = forecast(config)
    extract(config)
    store = Store.open(tmp_path / "s")
    written = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert said.gigabytes * 1e9 == pytest.approx(written, rel=0.02)
    assert said.shards == len(store.parts)
    shards = sum(path.stat().st_size for path in (store.root / "shards").rglob("*") if path.is_file())
    if layout == "zarr":
        assert said.feature_gigabytes * 1e9 == pytest.approx(shards, rel=0.02)
    kept = store.root / "targets" / "llm"
    own = [kept / "table.npy", *(kept / "tokenizer").iterdir()]
    assert said.llm_gigabytes * 1e9 == pytest.approx(sum(path.stat().st_size for path in own), abs=200)


def test_what_a_table_instead_of_padded_embeddings_saves(demo, tiny_llm):
    dense, table = (
        forecast(
            ExtractConfig(demo, Path("unused"), targets=TargetConfig(str(tiny_llm), kind=kind), encoder="tiny-seamless")
        )
        for kind in ("dense", "table")
    )
    assert dense.gigabytes - table.gigabytes == pytest.approx(dense.padded_gigabytes, rel=1e-6) != 0
    assert f"--targets table saves {dense.padded_gigabytes:.3f}" in dense.in_words()
    assert table.padded_gigabytes == 0 and "saves" not in table.in_words()


def test_device_hours_of_a_given_and_of_a_measured_rate(tiny_corpus):
    config = ExtractConfig(tiny_corpus, Path("unused"), encoder="tiny-seamless", device="cpu")
    unknown = forecast(config)
    assert (unknown.rate, unknown.device_hours) == (None, None)
    assert "GPU-hours: unknown; give --rate, or measure it here with --measure" in unknown.in_words()
    given = forecast(config, rate=2.0)
    assert given.device_hours == pytest.approx(given.hours / 2)
    assert "GPU-hours at 2 hours of audio per hour (given)" in given.in_words()
    measured = forecast(config, measure=True)
    assert measured.rate > 1
    assert measured.device_hours == pytest.approx(measured.hours / measured.rate)
    assert measured.rate_from == "measured on one CPU core"


def test_audio_that_utterances_share_costs_its_encoding_once(tmp_path):
    lines = [{"id": f"q{n}", "audio": "talk.wav", "text": "a", "duration": 36.0} for n in range(4)]
    lines.append({"id": "other", "audio": "other.wav", "text": "a", "duration": 36.0})
    manifest = write_lines(tmp_path / "m.jsonl", lines)
    said = forecast(ExtractConfig(manifest, Path("unused"), encoder="tiny-seamless"), rate=0.01)
    assert (said.hours, said.device_hours) == pytest.approx((0.05, 2.0))


def test_a_corpus_that_cannot_be_read_cannot_be_measured(tmp_path):
    manifest = write_lines(tmp_path / "m.jsonl", [{"id": "a", "audio": "a.wav", "text": "a", "duration": 1.0}])
    config = ExtractConfig(manifest, Path("unused"), encoder="tiny-seamless", device="cpu")
    with pytest.raises(ManifestError, match="none of 1 utterances can be read; check --audio-root"):
        forecast(config, measure=True)


def test_what_is_too_long_counts_as_nothing(tiny_corpus):
    config = ExtractConfig(tiny_corpus, Path("unused"), encoder="tiny-seamless", max_seconds=0.5)
    said = forecast(config)
    assert said.too_long == said.utterances > 0 and said.hours == said.feature_gigabytes == 0
    whole = forecast(replace(config, max_seconds=1000.0))
    assert whole.too_long == 0 and whole.hours > 0
    assert "GB (features" in whole.in_words()


def test_lengths_come_from_headers_where_the_manifest_has_none(tmp_path):
    with_durations = write_corpus(tmp_path / "with")
    without = write_corpus(tmp_path / "without", durations=False)
    config = ExtractConfig(with_durations, Path("unused"), encoder="tiny-seamless")
    known, read = forecast(config), forecast(replace(config, manifest=without))
    assert read.hours == pytest.approx(known.hours, rel=0.02) and read.unknown == 0


def test_unknown_hours_are_not_zero_hours(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", durations=False)
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    moved = manifest.rename(elsewhere / "m.jsonl")
    said = forecast(ExtractConfig(moved, Path("unused"), encoder="tiny-seamless"))
    assert "hours unknown" in said.in_words() and "0.00 hours" not in said.in_words()
    assert "check --audio-root" in said.in_words()
