"""What all families share: layers after the tap are removed, outputs of another length are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedConfig

from sm_pipeline.encoders.base import EncoderRequest, Outline
from sm_pipeline.encoders.tapped import Tap, TappedEncoder, cut_off
from sm_pipeline.models.source import ModelSource
from sm_store.errors import InputError, ModelError

SOURCE = ModelSource("models/some", None, Path("models/some"))


class Model(torch.nn.Module):
    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.config = PreTrainedConfig()
        self.config.model_type = "some"
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(layers)])
        self.layer_norm = torch.nn.LayerNorm(4)


class Plain(TappedEncoder):
    """Hidden states of ones, as many frames as it is made with, or as the outline says."""

    def __init__(self, tap: Tap, frames: int | None = None) -> None:
        super().__init__(Model(), tap, Outline(4, 400, 320), EncoderRequest(None, torch.device("cpu"), torch.float32))
        self._frames = frames

    def _hidden_states(self, waves, frames_B):
        return torch.ones(len(waves), self._frames or max(frames_B), 4)

    def front_end(self):
        return {}


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("layer", [1, 2, 3, None])
def test_layers_after_the_tap_are_removed(layer, final_norm):
    model = Model()
    tap = cut_off(model, model, final_norm, SOURCE, layer)
    assert len(model.layers) == tap.layer == (layer or 3)
    kept = final_norm and layer in (3, None)
    assert tap.name == ("encoder.layer_norm" if kept else f"encoder.layers[{tap.layer - 1}]")
    if final_norm:
        assert isinstance(model.layer_norm, torch.nn.LayerNorm if kept else torch.nn.Identity)


def test_the_weights_hash_is_of_the_whole_encoder():
    torch.manual_seed(0)
    first = Model()
    second = Model()
    second.load_state_dict(first.state_dict())
    taps = [cut_off(each, each, True, SOURCE, layer) for each, layer in ((first, 1), (second, 3))]
    assert taps[0].weights_sha256 == taps[1].weights_sha256


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_it_does_not_have(layer):
    with pytest.raises(ModelError, match="layer"):
        cut_off(Model(), Model(), True, SOURCE, layer)


def test_zeros_beyond_each_length_and_for_what_is_too_short():
    tap = Tap(SOURCE, "some", 3, "encoder.layers[2]", "hash")
    features, frames = Plain(tap).encode(
        [np.zeros(1200, np.float32), np.zeros(10, np.float32), np.zeros(400, np.float32)]
    )
    assert frames == [3, 0, 1]
    assert features.sum(dim=(1, 2)).tolist() == [12.0, 0.0, 4.0]
    assert Plain(tap).identity()["compute_dtype"] == "float32"


def test_an_output_of_another_length_is_refused():
    tap = Tap(SOURCE, "some", 3, "encoder.layers[2]", "hash")
    with pytest.raises(ModelError, match="this transformers version is not supported"):
        Plain(tap, frames=7).encode([np.zeros(1200, np.float32)])


def test_integers_of_unknown_scale_are_refused():
    tap = Tap(SOURCE, "some", 3, "encoder.layers[2]", "hash")
    with pytest.raises(InputError, match="samples of type int16"):
        Plain(tap).encode([np.zeros(1200, np.int16)])
