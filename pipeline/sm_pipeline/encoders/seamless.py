"""The SeamlessM4T-v2 speech encoder, tapped before its adapter.

    samples -> fbank (100 Hz, 80) -> stacked by 2 (50 Hz, 160) -> feature_projection -> Conformer layers -> layer_norm

The tap is the output of Conformer layer k; for the last layer, after `encoder.layer_norm`, which is what
`hidden_states[24]` was in transformers 4.x. transformers 5.x puts the *adapter's* output (about 6.25 Hz) last in
`hidden_states`, so the modules are run by name here, and the length is checked. The adapter is never built. Filter
banks and relative positions are ours (`frontend`, `fast_attention`), equal to Hugging Face's and faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, SeamlessM4TFeatureExtractor, SeamlessM4Tv2Config
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.encoders.base import EncoderRequest, Outline
from sm_pipeline.encoders.fast_attention import use_fast_attention
from sm_pipeline.encoders.frontend import HOP, WINDOW, FilterBank
from sm_pipeline.encoders.loading import read_config, read_extractor
from sm_pipeline.encoders.tapped import Tap, TappedEncoder, cut_off
from sm_pipeline.models.source import ENCODER_PRESETS, ModelSource
from sm_pipeline.models.weights import build, load_weights
from sm_store.errors import ModelError

STACKED = 2  # filter-bank frames in one encoder frame
MIN_SAMPLES = WINDOW + (STACKED - 1) * HOP
# `speech_encoder.save_pretrained` writes no feature extractor; all of SeamlessM4T-v2 have the class's own settings.
ALONE, OF_AUDIO = "SeamlessM4Tv2SpeechEncoder", ("preprocessor_config.json", "processor_config.json")
PRESET_SEED = 20417  # of the random weights of a preset


class SeamlessEncoder(TappedEncoder):
    """`Encoder` over Hugging Face's own SeamlessM4T-v2 classes, and over those that are built like them.

    Args:
        extractor: Hugging Face's feature extractor (80-bin log-mel filter bank, normalised per utterance and bin).
    """

    def __init__(self, model: Any, extractor: SeamlessM4TFeatureExtractor, tap: Tap, request: EncoderRequest) -> None:
        super().__init__(model, tap, outline_of(model.config), request)
        use_fast_attention(self._model.encoder.layers)
        self._filter_bank = FilterBank(extractor, request.device)

    def _hidden_states(self, waves: list[np.ndarray], frames_B: list[int]) -> torch.Tensor:
        inputs_BTF, mask_BT = self._filter_bank(waves)
        hidden_BTD = self._conformer(inputs_BTF.to(self._dtype), mask_BT)
        return hidden_BTD[:, : max(frames_B)]  # half a stack of filter-bank frames may be left

    def _conformer(self, inputs_BTF: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Filter banks stacked by 2, (B, T, 160), to the tap's output, (B, T, D)."""
        return self._model.encoder(self._model.feature_projection(inputs_BTF), attention_mask=mask_BT)

    def front_end(self) -> dict[str, Any]:
        return {
            "name": "fbank",
            "as": "SeamlessM4TFeatureExtractor",
            "sample_rate": SAMPLE_RATE,
            "mel_bins": self._filter_bank.mel_bins,
            "window": WINDOW,
            "hop": HOP,
            "stacked": self._filter_bank.stacked,
            "normalised": "per utterance and bin",
        }


def outline_of(config: PreTrainedConfig) -> Outline:
    """Width and frames of a model whose input is filter banks stacked by 2."""
    return Outline(config.hidden_size, MIN_SAMPLES, STACKED * HOP)


def outline(settings: Mapping[str, Any], where: str) -> Outline:
    """Width and frames by config.json; see `Outline`."""
    return outline_of(read_config(SeamlessM4Tv2Config, settings, where))


def load(source: ModelSource, settings: Mapping[str, Any], request: EncoderRequest) -> SeamlessEncoder:
    """The speech encoder of a SeamlessM4T-v2 checkpoint folder; nothing else of the checkpoint is read.

    Raises:
        ModelError: an incomplete or unusable checkpoint, or a layer that it does not have.
    """
    config = read_config(SeamlessM4Tv2Config, settings, str(source.folder))
    config.add_adapter = False
    alone = settings.get("architectures") == [ALONE] and not any((source.folder / each).is_file() for each in OF_AUDIO)
    extractor = SeamlessM4TFeatureExtractor() if alone else read_filter_bank(source, config)
    model = build(SeamlessM4Tv2SpeechEncoder, config, source)
    drop_after_tap(model)
    load_weights(model, source, ("speech_encoder.", ""))
    return SeamlessEncoder(model, extractor, cut_off(model, model.encoder, True, source, request.layer), request)


def load_preset(name: str, request: EncoderRequest) -> SeamlessEncoder:
    """The preset's architecture with weights drawn from a fixed seed; leaves the caller's random state alone."""
    config = SeamlessM4Tv2Config(**ENCODER_PRESETS[name], add_adapter=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PRESET_SEED)
        model = SeamlessM4Tv2SpeechEncoder(config)
    drop_after_tap(model)
    source = ModelSource(name, None, Path(name))
    tap = cut_off(model, model.encoder, True, source, request.layer)
    return SeamlessEncoder(model, SeamlessM4TFeatureExtractor(), tap, request)


def read_filter_bank(source: ModelSource, config: PreTrainedConfig) -> SeamlessM4TFeatureExtractor:
    """The feature extractor of a checkpoint, which must make what the model takes.

    Raises:
        ModelError: none, a broken one, or one of another model.
    """
    extractor = read_extractor(SeamlessM4TFeatureExtractor, source)
    makes = f"{extractor.num_mel_bins} mel bins stacked by {extractor.stride}"
    takes = f"{config.feature_projection_input_dim // STACKED} mel bins stacked by {STACKED}"
    if makes != takes:
        raise ModelError(
            f"{source.folder}: its feature extractor makes {makes}, its model takes {takes}; complete the checkpoint"
        )
    return extractor


def drop_after_tap(model: SeamlessM4Tv2SpeechEncoder) -> None:
    """Remove the modules after the tap, which are never run."""
    del model.intermediate_ffn, model.inner_layer_norm
