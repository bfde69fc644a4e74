"""w2v-BERT 2.0: the filter banks of SeamlessM4T, a Conformer, 50 frames per second.

    samples -> fbank (100 Hz, 80) -> stacked by 2 (50 Hz, 160) -> feature_projection -> Conformer layers

The tap is the output of Conformer layer k, which ends in its own norm; the encoder has none after the last. The
adapter that some checkpoints add after it is never built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from sm_pipeline.encoders.base import EncoderRequest, Outline
from sm_pipeline.encoders.loading import read_config
from sm_pipeline.encoders.seamless import SeamlessEncoder, outline_of, read_filter_bank
from sm_pipeline.encoders.tapped import cut_off
from sm_pipeline.models.source import ModelSource
from sm_pipeline.models.weights import build, load_weights
from sm_store.errors import ModelError

POSITIONS = ("relative_key", None)  # the published model's, and none; others keep tables that no checkpoint stores


class W2vBertEncoder(SeamlessEncoder):
    """`Encoder` over Hugging Face's `Wav2Vec2BertModel`."""

    def _conformer(self, inputs_BTF: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        projected_BTD, _ = self._model.feature_projection(inputs_BTF)
        return self._model.encoder(projected_BTD, attention_mask=mask_BT).last_hidden_state


def outline(settings: Mapping[str, Any], where: str) -> Outline:
    """Width and frames by config.json; see `Outline`."""
    return outline_of(read_config(Wav2Vec2BertConfig, settings, where))


def load(source: ModelSource, settings: Mapping[str, Any], request: EncoderRequest) -> W2vBertEncoder:
    """The encoder of a checkpoint folder; nothing else of the checkpoint is read.

    Raises:
        ModelError: an incomplete or unusable checkpoint, or a layer that it does not have.
    """
    config = read_config(Wav2Vec2BertConfig, settings, str(source.folder))
    if config.position_embeddings_type not in POSITIONS:
        raise ModelError(
            f"{source.folder}: position_embeddings_type {config.position_embeddings_type!r} is not supported; "
            f"use a model with {POSITIONS[0]!r}, as w2v-BERT 2.0 has it"
        )
    config.add_adapter = config.use_intermediate_ffn_before_adapter = False
    config.mask_time_prob = config.mask_feature_prob = 0.0  # of training: without them there is no masking vector
    extractor = read_filter_bank(source, config)
    model = build(Wav2Vec2BertModel, config, source)
    load_weights(model, source, ("", "wav2vec2_bert."))
    return W2vBertEncoder(model, extractor, cut_off(model, model.encoder, False, source, request.layer), request)
