"""Every family through the one interface, against Hugging Face's own model on one utterance alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sm_pipeline.config import ExtractConfig
from sm_pipeline.encoders import load_encoder, read_outline
from sm_pipeline.extraction.extract import extract
from sm_pipeline.extraction.forecast import forecast
from sm_store import Store
from tests.pipeline.encoders.families import LAYERS, RATE, WIDTH, waves


def near(features: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(features, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_every_layer_is_that_of_a_plain_run(made, layer):
    encoder = load_encoder(str(made.folder), layer=layer, device="cpu")
    for wave in waves(0.31, 1.0, 1.873):
        features, frames = encoder.encode([wave])
        expected = made.reference(wave, layer)
        assert features.shape == (1, *expected.shape)
        assert frames == [len(expected)]
        near(features[0], expected)


def test_the_last_layer_is_tapped_unless_told_otherwise(made):
    assert load_encoder(str(made.folder), device="cpu").layer == LAYERS


def test_batch_mates_change_nothing(made):
    encoder = load_encoder(str(made.folder), device="cpu")
    rng = np.random.default_rng(1)
    subject = waves(0.9, seed=7)[0]
    alone, count = encoder.encode([subject])
    for _ in range(4):
        mates = waves(*rng.uniform(0.02, 2.6, size=rng.integers(1, 5)), seed=int(rng.integers(1000)))
        place = int(rng.integers(len(mates) + 1))
        together, frames = encoder.encode([*mates[:place], subject, *mates[place:]])
        assert frames[place] == count[0]
        near(together[place, : count[0]], alone[0])
        assert together[place, count[0] :].abs().sum() == 0


def test_too_short_for_a_frame_and_the_shortest_that_has_one(made):
    encoder = load_encoder(str(made.folder), device="cpu")
    shortest = made.kind.field
    noise = waves(1.0)[0]
    features, frames = encoder.encode([noise[:0], noise[: shortest - 1], noise[:shortest], noise])
    assert frames[:3] == [0, 0, 1] and frames[3] > 1
    assert features[:2].abs().sum() == 0
    assert torch.isfinite(features).all()
    features, frames = encoder.encode([noise[: shortest - 1]])
    assert (features.shape, frames) == ((1, 0, WIDTH), [0])


def test_the_outline_tells_every_length(made):
    outline = read_outline(str(made.folder))
    encoder = load_encoder(str(made.folder), layer=1, device="cpu")
    assert (outline.width, outline.frame_rate) == (encoder.width, encoder.frame_rate) == (WIDTH, made.kind.frame_rate)
    lengths = [0, 1, 399, 400, 560, 719, 720, 880, 1_999, 6_000, 6_399, 6_400, 16_001, 31_999, 40_000]
    lengths += np.random.default_rng(2).integers(800, 30_000, 10).tolist()
    said = outline.num_frames(np.array(lengths)).tolist()
    assert encoder.encode([silence(length) for length in lengths])[1] == said
    for length, frames in zip(lengths, said, strict=True):
        if length >= made.kind.field:
            assert frames == len(made.reference(silence(length))) or made.kind.family == "whisper"  # that truncates


def silence(samples: int) -> np.ndarray:
    return np.zeros(samples, np.float32)


def test_half_precision_is_near(made):
    batch = waves(0.7, 1.5)
    full, _ = load_encoder(str(made.folder), device="cpu").encode(batch)
    half, _ = load_encoder(str(made.folder), device="cpu", dtype="bfloat16").encode(batch)
    assert half.dtype == torch.float32
    assert 0 < (half - full).square().mean() < 0.01 * full.square().mean()


def test_silence_is_finite(made):
    features, _ = load_encoder(str(made.folder), device="cpu").encode([silence(RATE)])
    assert torch.isfinite(features).all()


def test_frozen(made):
    encoder = load_encoder(str(made.folder), device="cpu")
    features, _ = encoder.encode(waves(0.4))
    assert not features.requires_grad
    assert not any(module.training for module in encoder._model.modules())
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())


def test_identity(made):
    first, last = (load_encoder(str(made.folder), layer=layer, device="cpu") for layer in (1, LAYERS))
    identity = last.identity()
    assert (identity["id"], identity["revision"]) == (str(made.folder), None)
    assert (identity["family"], identity["layer"], identity["width"]) == (made.kind.family, LAYERS, WIDTH)
    assert identity["tap"] == ("encoder.layer_norm" if made.kind.final_norm else f"encoder.layers[{LAYERS - 1}]")
    assert first.identity() == identity | {"layer": 1, "tap": "encoder.layers[0]"}
    assert json.loads(json.dumps(last.front_end())) == last.front_end()
    assert last.front_end()["sample_rate"] == RATE


def test_a_whole_extraction(made, tiny_corpus, tmp_path):
    config = ExtractConfig(tiny_corpus, tmp_path / "s", encoder=str(made.folder), layer=2, device="cpu", workers=1)
    said = forecast(config)
    summary = extract(config)
    store = Store.open(tmp_path / "s")
    assert (summary.written, summary.rejected) == (8, 0)
    assert store.identity.frame_rate == made.kind.frame_rate / 2
    assert store.identity.width == WIDTH
    assert store.identity.encoder == load_encoder(str(made.folder), layer=2, device="cpu").identity()
    assert int(store.frames.sum()) / store.identity.frame_rate == pytest.approx(summary.hours * 3600, rel=0.05)
    shards = sum(path.stat().st_size for path in (store.root / "shards").rglob("*") if path.is_file())
    assert said.feature_gigabytes * 1e9 == pytest.approx(shards, abs=1100)  # zarr.json: small beside real shards
