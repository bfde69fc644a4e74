"""What `plan` says against what `extract` then writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.extract import extract
from sm_pipeline.forecast import forecast
from sm_store import Store


@pytest.mark.parametrize(
    ("compression", "kind", "dtype"),
    [("none", "dense", "float16"), ("none", "table", "float32"), ("int8", "dense", "bfloat16")],
)
def test_gigabytes_and_shards_are_those_that_extract_writes(tmp_path, tiny_corpus, tiny_llm, compression, kind, dtype):
    config = ExtractConfig(
        tiny_corpus, tmp_path / "s", encoder="tiny-seamless", device="cpu", workers=1, dtype=dtype,
        compression=compression, shard_utterances=3, targets=TargetConfig(str(tiny_llm), kind=kind, name="llm"),
    )  # fmt: skip
    said = forecast(config)
    extract(config)
    store = Store.open(tmp_path / "s")
    frames = int(store.frames.sum())
    row = store.identity.width * {"float16": 2, "float32": 4}.get(dtype, 2)
    exact = frames * (store.identity.width + 4 if compression == "int8" else row)
    assert said.feature_gigabytes * 1e9 == pytest.approx(exact, rel=0.02)
    assert said.shards == len(store.parts)
    vectors = int(store.targets("llm").spec.geometry.num_vectors(store.frames).sum())
    width = store.targets("llm").spec.width
    dense = vectors * width * {"float16": 2, "float32": 4}.get(dtype, 2) if kind == "dense" else 0
    assert said.target_gigabytes * 1e9 == pytest.approx(dense, rel=0.02)
    assert said.gigabytes == pytest.approx(said.feature_gigabytes + said.target_gigabytes)


def test_what_is_too_long_counts_as_nothing(tiny_corpus):
    config = ExtractConfig(tiny_corpus, Path("unused"), encoder="tiny-seamless", max_seconds=0.5)
    said = forecast(config)
    assert said.too_long == said.utterances > 0 and said.gigabytes == 0
    whole = forecast(replace(config, max_seconds=1000.0))
    assert whole.too_long == 0 and whole.hours > 0
    assert "GB (features" in whole.in_words()
