"""Whisper's windows and its two paddings."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from sm_pipeline.config import ExtractConfig
from sm_pipeline.encoders import load_encoder, read_outline, whisper
from sm_pipeline.extraction.recipe import Recipe
from sm_store.errors import ConfigError
from speechmapper.audio_features import load_listening
from speechmapper.saved_projector import model_name
from tests.pipeline.encoders.families import RATE, WHISPER_SECONDS, waves

COMMIT = "c0ffee" * 6 + "0000"


def near(features: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def folder(checkpoints):
    return str(checkpoints["whisper"].folder)


@pytest.fixture(scope="module")
def padded(folder):
    return load_encoder(folder, device="cpu")


@pytest.fixture(scope="module")
def unpadded(folder):
    return load_encoder(f"{folder}?padding=none", device="cpu")


def test_the_padding_is_in_the_identity(padded, unpadded, folder):
    trained = f"{WHISPER_SECONDS}s"
    assert padded.identity()["options"] == {"padding": trained}
    assert unpadded.identity() == padded.identity() | {"options": {"padding": "none"}}
    assert load_encoder(f"{folder}?padding={trained}", device="cpu").identity() == padded.identity()
    assert padded.front_end() == unpadded.front_end()


def test_paddings_have_the_same_frames_and_other_features(padded, unpadded):
    batch = waves(0.5, 1.37, 3.9)
    features, frames = padded.encode(batch)
    other, other_frames = unpadded.encode(batch)
    assert frames == other_frames == [25, 68, 195]
    assert not torch.allclose(features[0, :25], other[0, :25], atol=1e-2)
    near(other[2, :100], features[2, :100])  # a whole window needs none


@pytest.mark.parametrize("padding", ["none", f"{WHISPER_SECONDS}s"])
def test_long_audio_is_the_sum_of_its_windows(folder, padding):
    encoder = load_encoder(f"{folder}?padding={padding}", device="cpu")
    long, short = waves(4.713, 0.8)
    features, frames = encoder.encode([short, long])
    size = WHISPER_SECONDS * RATE
    pieces = [encoder.encode([long[start : start + size]]) for start in range(0, len(long), size)]
    assert [count for _, (count,) in pieces] == [100, 100, 35]
    assert frames == [40, 235]
    near(features[1], torch.cat([piece[0] for piece, _ in pieces]))


def test_a_last_window_too_short_for_a_frame(padded, unpadded):
    whole = waves(WHISPER_SECONDS + 0.1)[0]
    for extra in (0, 1, 319, 320):
        for encoder in (padded, unpadded):
            features, frames = encoder.encode([whole[: WHISPER_SECONDS * RATE + extra]])
            assert frames == [100 + extra // 320] == [features.shape[1]]


def test_without_padding_batch_mates_change_nothing(unpadded):
    batch = waves(0.333, 1.2, 2.5, 0.02, 1.99)
    together, frames = unpadded.encode(batch)
    for wave, features, count in zip(batch, together, frames, strict=True):
        near(features[:count], unpadded.encode([wave])[0][0])


def test_how_many_windows_at_once_changes_nothing(padded, monkeypatch):
    batch = waves(*[0.5] * 5, 2.1)
    expected, _ = padded.encode(batch)
    monkeypatch.setattr(whisper, "FRAMES_AT_ONCE", 250)
    near(padded.encode(batch)[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("padding=yes", "padding=yes: use none or 2s"),
        ("pading=none", "no option 'pading'; this family takes padding"),
        ("padding", r"options after the \? have the form option=value"),
    ],
)
def test_options_that_are_none(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        load_encoder(f"{folder}?{options}", device="cpu")


def test_other_families_have_no_options(checkpoints):
    for name in (str(checkpoints["hubert"].folder), "tiny-seamless"):
        with pytest.raises(ConfigError, match="this family takes no options"):
            load_encoder(f"{name}?padding=none", device="cpu")


def not_there(name, filename, revision):
    raise LocalEntryNotFoundError(filename)


def test_a_hub_id_with_revision_and_options(folder, checkpoints, tmp_path, monkeypatch):
    snapshot = tmp_path / COMMIT
    snapshot.symlink_to(folder)
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, revision, allow_patterns: asked.append((name, revision)) or str(snapshot),
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", not_there)
    encoder = load_encoder("openai/whisper-tiny@main?padding=none", device="cpu")
    identity = encoder.identity()
    assert (identity["id"], identity["revision"]) == ("openai/whisper-tiny", COMMIT)
    again = f"openai/whisper-tiny@{COMMIT}?padding=none"
    assert model_name(identity) == again
    assert load_encoder(again, device="cpu").identity() == identity
    assert read_outline("openai/whisper-tiny@main?padding=none").width == encoder.width
    assert asked == [("openai/whisper-tiny", "main"), ("openai/whisper-tiny", COMMIT), ("openai/whisper-tiny", "main")]
    made = {"encoder": identity, "average": 2, "target": {"dtype": "float16"}}
    assert load_listening(made, None, "cpu").encoder.identity() == identity


def test_a_recipe_keeps_folder_and_options(folder, tmp_path, monkeypatch):
    (tmp_path / "here").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    config = ExtractConfig(tmp_path / "m.jsonl", tmp_path / "s", encoder="here?padding=none")
    assert Recipe.of(config, None, 15.0).encoder == f"{folder}?padding=none"
