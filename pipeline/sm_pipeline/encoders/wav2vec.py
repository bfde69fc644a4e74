"""wav2vec 2.0, HuBERT, WavLM (XLS-R, MMS, mHuBERT are checkpoints of these): raw waveforms, mostly at 50 Hz.

    samples -> zero mean, unit variance (where the checkpoint says so) -> 7 convolutions (16 kHz to 50 Hz)
            -> feature_projection -> + positional convolution -> Transformer layers [-> layer_norm]

The tap is the output of Transformer layer k. A model with `do_stable_layer_norm` has a norm behind its last layer: the
last layer is tapped after that norm, which transformers 5.x leaves out of `hidden_states`. The others end in a layer's
own norm.

Checkpoints with `feat_extract_norm: group` normalise the first convolution's output over time, padding included, and
were trained without attention mask, so in a padded batch an utterance's features depend on its batch mates. Here the
convolutions run on one utterance at a time, which wastes no compute on padding either; their frames are then padded
with zeros, which is what the positional convolution sees beyond the ends of an utterance alone, and masked.
A positional convolution with a batch norm in front (`conv_pos_batch_norm`, as mHuBERT at 25 Hz has it) would see
something else there, and WavLM's attention masks in a way that torch is about to drop: these run on one utterance at
a time as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.encoders.base import EncoderRequest, Outline
from sm_pipeline.encoders.loading import read_config, read_extractor
from sm_pipeline.encoders.tapped import Tap, TappedEncoder, cut_off
from sm_pipeline.models.source import ModelSource
from sm_pipeline.models.weights import build, load_weights

CLASSES: dict[str, tuple[Any, Any]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}


class Wav2VecEncoder(TappedEncoder):
    """`Encoder` over Hugging Face's `Wav2Vec2Model`, `HubertModel` and `WavLMModel`."""

    def __init__(self, model: Any, extractor: Wav2Vec2FeatureExtractor, tap: Tap, request: EncoderRequest) -> None:
        super().__init__(model, tap, outline_of(model.config), request)
        self._one_by_one = tap.family == "wavlm" or getattr(model.config, "conv_pos_batch_norm", False)
        self._extractor = extractor

    def _hidden_states(self, waves: list[np.ndarray], frames_B: list[int]) -> torch.Tensor:
        inputs = [self._projected(wave) for wave in waves]
        if self._one_by_one:
            return pad_sequence([self._transformed([each])[0] for each in inputs], batch_first=True)
        return self._transformed(inputs)

    def _projected(self, wave: np.ndarray) -> torch.Tensor:
        """Input of the Transformer, (T, D), of one utterance."""
        normalised = self._extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"]
        convolved_1CT = self._model.feature_extractor(normalised.to(self._device, self._dtype))
        projected = self._model.feature_projection(convolved_1CT.transpose(1, 2))
        projected_1TD = projected[0] if isinstance(projected, tuple) else projected  # some give its input too
        return projected_1TD[0]

    def _transformed(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The tap's output, (B, T, D)."""
        hidden_BTD = pad_sequence(inputs, batch_first=True)
        mask_BT = self._mask([len(each) for each in inputs]) if len(inputs) > 1 else None
        return self._model.encoder(hidden_BTD, attention_mask=mask_BT).last_hidden_state

    def front_end(self) -> dict[str, Any]:
        return {
            "name": "Wav2Vec2FeatureExtractor",
            "sample_rate": SAMPLE_RATE,
            "normalised": "per utterance" if self._extractor.do_normalize else "no",
        }


def outline_of(config: PreTrainedConfig) -> Outline:
    """Width and frames of a stack of convolutions without padding."""
    field = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel
    return Outline(config.hidden_size, field, math.prod(config.conv_stride))


def outline(settings: Mapping[str, Any], where: str) -> Outline:
    """Width and frames by config.json; see `Outline`."""
    return outline_of(read_config(CLASSES[settings["model_type"]][0], settings, where))


def load(source: ModelSource, settings: Mapping[str, Any], request: EncoderRequest) -> Wav2VecEncoder:
    """The encoder of a checkpoint folder; nothing else of the checkpoint is read.

    Raises:
        ModelError: an incomplete or unusable checkpoint, or a layer that it does not have.
    """
    family = settings["model_type"]
    config_class, model_class = CLASSES[family]
    config = read_config(config_class, settings, str(source.folder))
    config.add_adapter = False
    config.mask_time_prob = config.mask_feature_prob = 0.0  # of training: without them there is no masking vector
    extractor = read_extractor(Wav2Vec2FeatureExtractor, source)
    model = build(model_class, config, source)
    load_weights(model, source, ("", f"{family}."))
    tap = cut_off(model, model.encoder, config.do_stable_layer_norm, source, request.layer)
    fold_weight_norm(model.encoder.pos_conv_embed.conv)
    return Wav2VecEncoder(model, extractor, tap, request)


def fold_weight_norm(convolution: torch.nn.Module) -> None:
    """Compute the positional convolution's weight once, in float32, rather than in each forward pass."""
    if parametrize.is_parametrized(convolution, "weight"):
        parametrize.remove_parametrizations(convolution.float(), "weight")
