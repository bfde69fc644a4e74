"""What `load_encoder` reads of a checkpoint, and what it says of one that it cannot use."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2CTCTokenizer, Wav2Vec2Processor

from sm_pipeline.encoders import FAMILIES, load_encoder, read_outline
from sm_store.errors import ModelError
from tests.pipeline.encoders.families import KINDS, LAYERS, Made, waves

PREPROCESSOR = "preprocessor_config.json"


@pytest.fixture
def copy(checkpoints, tmp_path):
    """Copies a checkpoint to where it can be changed."""
    return lambda name: shutil.copytree(checkpoints[name].folder, tmp_path / name)


def refusal(folder) -> str:
    with pytest.raises(ModelError) as caught:
        load_encoder(str(folder), device="cpu")
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def change(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rewrite(folder, rename=lambda name: name, keep=lambda name: True):
    """Save the weights again, some renamed or left out."""
    path = folder / "model.safetensors"
    weights = {rename(name): tensor for name, tensor in load_file(path).items() if keep(name)}
    save_file(weights, path, metadata={"format": "pt"})


def test_every_family_is_tested():
    assert {kind.family for kind in KINDS.values()} == set(FAMILIES) - {"seamless_m4t_v2"}


def test_a_family_without_support_names_those_with(copy):
    folder = copy("hubert")
    change(folder / "config.json", model_type="bert")
    message = refusal(folder)
    assert "model_type 'bert' is not supported" in message
    assert all(family in message for family in FAMILIES)
    with pytest.raises(ModelError, match="not supported"):
        read_outline(str(folder))


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": "hubert", "conv_stride": [5, 2]}', "[" * 100_000])
def test_a_broken_config(copy, text):
    folder = copy("hubert")
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("layer", [0, -1, LAYERS + 1])
def test_a_layer_it_does_not_have(made, layer):
    with pytest.raises(ModelError, match=f"layers 1 to {LAYERS}"):
        load_encoder(str(made.folder), layer=layer, device="cpu")


def test_an_incomplete_checkpoint(made: Made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "copy")
    rewrite(folder, keep=lambda name: "layers.1." not in name or "decoder" in name)
    assert "missing" in refusal(folder)


def test_weights_of_another_size(copy):
    folder = copy("w2v-bert")
    change(folder / "config.json", intermediate_size=32)
    assert "weights and config.json do not fit" in refusal(folder)


def test_no_feature_extractor(made: Made, tmp_path):
    folder = shutil.copytree(made.folder, tmp_path / "copy")
    (folder / PREPROCESSOR).unlink()
    assert "no feature extractor" in refusal(folder)


def test_a_feature_extractor_of_another_rate(copy):
    folder = copy("hubert")
    change(folder / PREPROCESSOR, sampling_rate=8_000)
    assert "takes 8000 Hz" in refusal(folder)


def test_a_feature_extractor_of_another_model(copy):
    folder = copy("whisper")
    change(folder / PREPROCESSOR, feature_size=128)
    assert "makes 128 mel bins" in refusal(folder)
    folder = copy("w2v-bert")
    SeamlessM4TFeatureExtractor(feature_size=40, num_mel_bins=40).save_pretrained(folder)
    assert "makes 40 mel bins stacked by 2, its model takes 80" in refusal(folder)


def test_positions_that_no_checkpoint_stores(copy):
    folder = copy("w2v-bert")
    change(folder / "config.json", position_embeddings_type="rotary")
    assert "'rotary' is not supported" in refusal(folder)


def same(first, second) -> None:
    wave = waves(0.8)
    assert torch.equal(first.encode(wave)[0], second.encode(wave)[0])
    assert first.identity()["weights_sha256"] == second.identity()["weights_sha256"]


@pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-large"])
def test_names_of_older_checkpoints(checkpoints, copy, name):
    folder = copy(name)
    older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    rewrite(folder, lambda name: next((name.replace(new, old) for new, old in older.items() if new in name), name))
    assert any(name.endswith("weight_g") for name in load_file(folder / "model.safetensors"))
    same(load_encoder(str(folder), device="cpu"), load_encoder(str(checkpoints[name].folder), device="cpu"))


def test_the_encoder_alone_is_the_one_in_the_whole_model(checkpoints, copy):
    for name, prefix in (("whisper", "model."), ("whisper", "model.encoder."), ("w2v-bert-ctc", "wav2vec2_bert.")):
        folder = copy(name)
        rewrite(folder, lambda each, prefix=prefix: each.removeprefix(prefix), lambda each: "decoder" not in each)
        same(load_encoder(str(folder), device="cpu"), load_encoder(str(checkpoints[name].folder), device="cpu"))
        shutil.rmtree(folder)


def test_a_folder_with_a_whole_processor(checkpoints, copy, tmp_path):
    folder = copy("wav2vec2-xlsr")
    (folder / PREPROCESSOR).unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="<unk>")
    extractor = checkpoints["wav2vec2-xlsr"].kind.extractor()
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    encoder = load_encoder(str(folder), device="cpu")
    assert encoder.front_end()["normalised"] == "per utterance"
    same(encoder, load_encoder(str(checkpoints["wav2vec2-xlsr"].folder), device="cpu"))


def test_half_precision_checkpoints(checkpoints, copy):
    folder = copy("whisper")
    whole = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in whole.items()}, folder / "model.safetensors")
    features, _ = load_encoder(str(folder), device="cpu").encode(waves(0.8))
    expected, _ = load_encoder(str(checkpoints["whisper"].folder), device="cpu").encode(waves(0.8))
    torch.testing.assert_close(features, expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("attention", ["flash_attention_2", "someone/kernels", "no-such"])
def test_a_checkpoint_does_not_choose_the_attention(checkpoints, copy, attention):
    """It could name code to be fetched."""
    folder = copy("hubert")
    change(folder / "config.json", attn_implementation=attention, _attn_implementation=attention)
    same(load_encoder(str(folder), device="cpu"), load_encoder(str(checkpoints["hubert"].folder), device="cpu"))
