"""The SeamlessM4T-v2 tap, on the installed transformers: where it is, what it equals, what it does not depend on."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, SeamlessM4Tv2Config, SeamlessM4Tv2ForSpeechToText
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from sm_pipeline.encoders import load_encoder
from sm_pipeline.encoders.frontend import FilterBank
from sm_pipeline.encoders.loading import weights_sha256
from sm_pipeline.encoders.seamless import MIN_SAMPLES, PRESET_SEED
from sm_pipeline.models.source import TINY_SEAMLESS
from sm_store.errors import ModelError

SAMPLE_RATE = 16_000
LAYERS = TINY_SEAMLESS["speech_encoder_layers"]


def waves(*seconds: float, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(int(size * SAMPLE_RATE)).astype(np.float32) * 0.1 for size in seconds]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("tiny-seamless", device="cpu")


@pytest.fixture(scope="module")
def plain_model() -> SeamlessM4Tv2SpeechEncoder:
    """The preset's weights in Hugging Face's own, whole speech encoder."""
    with torch.random.fork_rng():
        torch.manual_seed(PRESET_SEED)
        return SeamlessM4Tv2SpeechEncoder(SeamlessM4Tv2Config(**TINY_SEAMLESS, add_adapter=False)).eval()


@torch.no_grad()
def reference_layers(model: SeamlessM4Tv2SpeechEncoder, wave: np.ndarray) -> list[torch.Tensor]:
    """Output of every Conformer layer, then of the final norm, of one utterance without any padding."""
    inputs, mask = FilterBank(SeamlessM4TFeatureExtractor(), torch.device("cpu"))([wave])
    hidden = model.feature_projection(inputs[:, : int(mask.sum())])
    outputs = []
    for layer in model.encoder.layers:
        hidden = layer(hidden)
        outputs.append(hidden[0])
    return [*outputs, model.encoder.layer_norm(hidden)[0]]


def test_one_frame_every_20_ms(encoder):
    features, frames = encoder.encode(waves(1.0, 2.5, 0.3))
    # n samples give floor((n - 400) / 160) + 1 filter-bank frames, two of them one encoder frame.
    assert frames == [((size - 400) // 160 + 1) // 2 for size in (16_000, 40_000, 4_800)]
    assert features.shape == (3, frames[1], encoder.width)
    assert features.dtype == torch.float32
    assert encoder.frame_rate == 50.0


def test_the_last_layer_equals_a_plain_run_after_the_final_norm(encoder, plain_model):
    for wave in waves(0.5, 1.37, 3.0):
        features, frames = encoder.encode([wave])
        expected = reference_layers(plain_model, wave)[-1]
        assert frames == [len(expected)]
        torch.testing.assert_close(features[0, : frames[0]], expected, rtol=0, atol=1e-5)


def test_a_batch_has_the_bits_of_hugging_faces_encoder(encoder, plain_model):
    batch = waves(0.5, 1.37, 3.0, 0.2)
    inputs, mask = FilterBank(SeamlessM4TFeatureExtractor(), torch.device("cpu"))(batch)
    with torch.inference_mode():
        expected = plain_model.encoder(plain_model.feature_projection(inputs), attention_mask=mask)
    features, _ = encoder.encode(batch)
    assert torch.equal(features, expected * mask.unsqueeze(-1))


def test_the_whole_way_is_near_hugging_faces_own(encoder, plain_model):
    batch = waves(0.5, 1.37, 3.0)
    inputs = SeamlessM4TFeatureExtractor()(batch, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.inference_mode():
        projected = plain_model.feature_projection(inputs["input_features"])
        expected = plain_model.encoder(projected, attention_mask=inputs["attention_mask"])
    features, frames = encoder.encode(batch)
    for place, count in enumerate(frames):
        torch.testing.assert_close(features[place, :count], expected[place, :count], rtol=0, atol=1e-4)


def test_an_intermediate_layer_equals_a_plain_run_before_the_norm(plain_model):
    wave = waves(1.1)[0]
    tapped = load_encoder("tiny-seamless", layer=1, device="cpu")
    features, _ = tapped.encode([wave])
    torch.testing.assert_close(features[0], reference_layers(plain_model, wave)[0], rtol=0, atol=1e-5)
    assert tapped.identity()["tap"] == "encoder.layers[0]"


def test_the_tap_is_not_the_adapters_output(plain_model, encoder):
    """transformers 5 puts what comes after the tap last; it differs, and with an adapter so does its rate."""
    wave = waves(1.0)[0]
    inputs = SeamlessM4TFeatureExtractor()(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.no_grad():
        after = plain_model(**inputs).last_hidden_state[0]
    features, frames = encoder.encode([wave])
    assert not torch.allclose(features[0], after[: frames[0]], atol=1e-2)


def test_batch_mates_change_nothing(encoder):
    rng = np.random.default_rng(1)
    subject = waves(0.9, seed=7)[0]
    alone, count = encoder.encode([subject])
    for _ in range(8):
        mates = waves(*rng.uniform(0.2, 3.0, size=rng.integers(1, 5)), seed=int(rng.integers(1000)))
        place = int(rng.integers(len(mates) + 1))
        together, frames = encoder.encode([*mates[:place], subject, *mates[place:]])
        assert frames[place] == count[0]
        torch.testing.assert_close(together[place, : count[0]], alone[0], rtol=0, atol=1e-5)
        assert together[place, count[0] :].abs().sum() == 0


@pytest.mark.parametrize("samples", [0, 1, 399, 400, MIN_SAMPLES - 1])
def test_too_short_for_one_frame(encoder, samples):
    short = np.zeros(samples, dtype=np.float32)
    features, frames = encoder.encode([short, *waves(0.5)])
    assert frames[0] == 0
    assert frames[1] > 0
    assert features[0].abs().sum() == 0
    features, frames = encoder.encode([short])
    assert (features.shape[1], frames) == (0, [0])


def test_the_shortest_that_has_a_frame(encoder):
    features, frames = encoder.encode([waves(1.0)[0][:MIN_SAMPLES]])
    assert frames == [1]
    assert torch.isfinite(features).all()


def test_silence_is_finite(encoder):
    features, _ = encoder.encode([np.zeros(SAMPLE_RATE, dtype=np.float32)])
    assert torch.isfinite(features).all()


def test_the_preset_is_the_same_every_time_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_encoder("tiny-seamless", device="cpu")
    assert torch.equal(torch.rand(3), expected)
    second = load_encoder("tiny-seamless", device="cpu")
    assert first.identity() == second.identity()
    wave = waves(0.7)
    assert torch.equal(first.encode(wave)[0], second.encode(wave)[0])


def test_identity_names_what_made_the_features(encoder):
    identity = encoder.identity()
    assert identity["id"] == "tiny-seamless"
    assert identity["family"] == "seamless_m4t_v2"
    assert identity["layer"] == LAYERS
    assert identity["tap"] == "encoder.layer_norm"
    assert identity["width"] == TINY_SEAMLESS["hidden_size"] == encoder.width
    assert len(identity["weights_sha256"]) == 64
    assert json.loads(json.dumps(encoder.front_end()))["sample_rate"] == SAMPLE_RATE


def test_the_weights_hash_sees_names_shapes_and_bits():
    def module(value: float, size: int = 3) -> torch.nn.Module:
        layer = torch.nn.Linear(size, 1)
        torch.nn.init.constant_(layer.weight, value)
        torch.nn.init.zeros_(layer.bias)
        return layer

    base = weights_sha256(module(1.0))
    assert base == weights_sha256(module(1.0))
    assert base != weights_sha256(module(1.0 + 2**-23))
    assert base != weights_sha256(module(1.0, size=4))
    assert base != weights_sha256(torch.nn.Sequential(module(1.0)))


@pytest.mark.parametrize("layer", [0, -1, LAYERS + 1, 24])
def test_a_layer_it_does_not_have(layer):
    with pytest.raises(ModelError, match=f"layers 1 to {LAYERS}"):
        load_encoder("tiny-seamless", layer=layer, device="cpu")


def test_no_gradients_and_no_training_mode(encoder):
    features, _ = encoder.encode(waves(0.4))
    assert not features.requires_grad
    assert not encoder._model.training
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())


# -- a whole checkpoint -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory):
    """A complete SeamlessM4T-v2 speech-to-text model, small, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("seamless")
    config = SeamlessM4Tv2Config(
        **{**TINY_SEAMLESS, "hidden_size": 64, "speech_encoder_intermediate_size": 96, "speech_encoder_layers": 3},
        vocab_size=40,
        decoder_layers=1,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        adaptor_kernel_size=3,
    )
    torch.manual_seed(3)
    model = SeamlessM4Tv2ForSpeechToText(config).eval()
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)
    return folder, model


def test_a_checkpoint_folder_gives_the_layer_of_the_whole_model(whole_checkpoint):
    folder, model = whole_checkpoint
    encoder = load_encoder(str(folder), device="cpu")
    for wave in waves(0.6, 1.4):
        features, frames = encoder.encode([wave])
        expected = reference_layers(model.speech_encoder, wave)[-1]
        assert frames == [len(expected)]
        torch.testing.assert_close(features[0, : frames[0]], expected, rtol=0, atol=1e-5)
    assert encoder.layer == 3
    assert (encoder.width, encoder.identity()["id"]) == (64, str(folder))


def test_a_speech_encoder_saved_alone_is_the_one_in_the_whole_model(whole_checkpoint, tmp_path):
    folder, model = whole_checkpoint
    model.speech_encoder.save_pretrained(tmp_path / "alone")
    assert not (tmp_path / "alone" / "preprocessor_config.json").exists()
    alone, whole = (load_encoder(str(each), device="cpu") for each in (tmp_path / "alone", folder))
    wave = waves(0.7)
    assert torch.equal(alone.encode(wave)[0], whole.encode(wave)[0])
    assert alone.identity()["weights_sha256"] == whole.identity()["weights_sha256"]
    assert alone.front_end() == whole.front_end()


def test_a_whole_model_without_its_feature_extractor_is_incomplete(whole_checkpoint, tmp_path):
    copy = shutil.copytree(whole_checkpoint[0], tmp_path / "copy")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="no feature extractor"):
        load_encoder(str(copy), device="cpu")


@pytest.mark.parametrize("sharded", [True, False])
def test_of_a_hub_id_only_the_files_that_hold_the_encoder_are_fetched(whole_checkpoint, tmp_path, monkeypatch, sharded):
    """The Hub is a folder here: beside the weights it holds them in other forms, which nobody wants."""
    there, fetched = tmp_path / "there", []
    whole_checkpoint[1].save_pretrained(there, max_shard_size="100KB" if sharded else "1GB")
    SeamlessM4TFeatureExtractor().save_pretrained(there)
    (there / "model.fp32-00001-of-00002.safetensors").write_bytes(b"twice as large")
    (there / "pytorch_model.bin").write_bytes(b"would run code")
    snapshot = tmp_path / "snapshots" / ("c0ffee" * 6 + "0000")

    def hf_hub_download(repository, name, revision):
        assert (repository, revision) == ("me/seamless", snapshot.name)
        fetched.append(name)
        return shutil.copy(there / name, snapshot / name)

    def snapshot_download(repository, revision, allow_patterns):
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in there.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                hf_hub_download(repository, path.name, snapshot.name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    encoder = load_encoder("me/seamless", device="cpu")
    assert encoder.identity()["revision"] == snapshot.name
    weights = {name for name in fetched if not name.endswith(".json")}
    if not sharded:
        assert weights == {"model.safetensors"}
        return
    shard_of = json.loads((there / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = (name for name in shard_of if name.startswith("speech_encoder.") and ".adapter." not in name)
    not_built = ("speech_encoder.intermediate_ffn", "speech_encoder.inner_layer_norm")
    assert weights == {shard_of[name] for name in wanted if not name.startswith(not_built)}
    assert len(weights) < len(set(shard_of.values()))


def test_the_whole_models_hidden_states_are_a_trap(whole_checkpoint):
    """What `output_hidden_states` gives last is at the adapter's rate, not the encoder's."""
    folder, model = whole_checkpoint
    wave = waves(1.0)[0]
    inputs = SeamlessM4TFeatureExtractor()(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.no_grad():
        last = model.speech_encoder(**inputs, output_hidden_states=True).last_hidden_state
    _, frames = load_encoder(str(folder), device="cpu").encode([wave])
    assert last.shape[1] < frames[0] / 4


def test_a_checkpoint_without_its_speech_encoder(whole_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _ = whole_checkpoint
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "encoder.layers.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no speech_encoder\.encoder\.layers\.1\..* missing"):
        load_encoder(str(tmp_path), device="cpu")


def test_an_encoder_of_an_unsupported_family(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"model_type 'bert' is not supported"):
        load_encoder(str(tmp_path), device="cpu")


def test_an_unknown_encoder_names_the_presets():
    with pytest.raises(ModelError, match="tiny-seamless"):
        load_encoder("no-such-encoder", device="cpu")


# -- dtype ------------------------------------------------------------------------------------------


def test_bfloat16_stays_close_to_float32(encoder):
    wave = waves(1.0)
    half, _ = load_encoder("tiny-seamless", device="cpu", dtype="bfloat16").encode(wave)
    full, _ = encoder.encode(wave)
    assert half.dtype == torch.float32
    assert (half - full).square().mean() < 0.01 * full.square().mean()
