"""wav2vec 2.0 and its relatives: the field of a stack of convolutions, and the folded weight norm."""

from __future__ import annotations

import torch
from torch.nn.utils.parametrizations import weight_norm
from transformers import HubertConfig, Wav2Vec2Config

from sm_pipeline.encoders import load_encoder
from sm_pipeline.encoders.wav2vec import fold_weight_norm, outline_of
from tests.pipeline.encoders.families import AT_25_HZ


def test_the_field_is_that_of_the_convolutions():
    outline = outline_of(Wav2Vec2Config())
    assert (outline.width, outline.field, outline.hop) == (768, 400, 320)
    assert outline_of(HubertConfig(**AT_25_HZ)).frame_rate == 25.0


def test_folding_a_weight_norm_changes_no_output():
    torch.manual_seed(0)
    convolution = weight_norm(torch.nn.Conv1d(4, 6, 3), name="weight", dim=2)
    inputs = torch.randn(2, 4, 10)
    expected = convolution(inputs).detach()
    fold_weight_norm(convolution)
    assert set(convolution.state_dict()) == {"weight", "bias"}
    torch.testing.assert_close(convolution(inputs), expected)
    fold_weight_norm(convolution)  # nothing more to fold


def test_the_front_end_says_whether_waveforms_are_normalised(checkpoints):
    shown = {
        name: load_encoder(str(checkpoints[name].folder), device="cpu").front_end()["normalised"]
        for name in ("wav2vec2-base", "wav2vec2-plain")
    }
    assert shown == {"wav2vec2-base": "no", "wav2vec2-plain": "per utterance"}
