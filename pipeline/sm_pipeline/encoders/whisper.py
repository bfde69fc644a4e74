"""Whisper's encoder: log-mel spectrograms, a Transformer with learned positions, 50 frames per second.

    samples -> log-mel (100 Hz) -> 2 convolutions (50 Hz) -> + positions -> Transformer layers -> layer_norm

The tap is the output of Transformer layer k; for the last layer, after `layer_norm`. The decoder is never read.

Whisper was trained on windows of 30 s, shorter audio being padded with silence that no mask hides: the features of a
short clip depend on that silence. So there is a choice, made in the encoder's name and recorded in its identity:

    openai/whisper-large-v3                     as trained: every utterance is padded to 30 s, and the frames of its
                                                audio are kept. Costs 30 s of compute for every utterance.
    openai/whisper-large-v3?padding=none        the spectrogram of the audio alone, as many positions as it has frames,
                                                batch padding masked. Costs what the audio takes; other features than
                                                the model was trained to give.

Both have the same frames: one per 20 ms of audio, a shorter rest dropped. Longer audio is cut into windows of 30 s, the
last one shorter; each is encoded separately and their frames are concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import gelu
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder as WhisperModules

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.encoders.base import EncoderRequest, Outline
from sm_pipeline.encoders.loading import read_config, read_extractor
from sm_pipeline.encoders.tapped import Tap, TappedEncoder, cut_off
from sm_pipeline.models.source import ModelSource
from sm_pipeline.models.weights import build, load_weights
from sm_store.errors import ConfigError, ModelError

MEL_HOP = 160  # samples (10 ms)
FRAME_SAMPLES = 2 * MEL_HOP  # the second convolution has stride 2
FRAMES_AT_ONCE = 24_000  # padding included; a batch of short utterances would be many windows of 30 s


class WhisperEncoder(TappedEncoder):
    """`Encoder` over Hugging Face's `WhisperEncoder` modules.

    The option `padding` is "none", or the length in seconds that the model was trained on, which is the default.

    Raises:
        ConfigError: another padding.
    """

    def __init__(self, model: Any, extractor: WhisperFeatureExtractor, tap: Tap, request: EncoderRequest) -> None:
        super().__init__(model, tap, outline_of(model.config), request)
        self._extractor = extractor
        self._window_frames = int(model.config.max_source_positions)
        trained = f"{self._window_frames / self.frame_rate:g}s"
        self._padding = request.options.get("padding", trained)
        self._padded = self._padding == trained
        if not self._padded and self._padding != "none":
            raise ConfigError(f"--encoder {tap.source.id}?padding={self._padding}: use none or {trained}")

    def _hidden_states(self, waves: list[np.ndarray], frames_B: list[int]) -> torch.Tensor:
        size = self._window_frames * FRAME_SAMPLES
        windows = [
            wave[start : start + size]
            for wave, frames in zip(waves, frames_B, strict=True)
            for start in range(0, frames * FRAME_SAMPLES, size)
        ]
        longest = self._window_frames if self._padded else max(map(len, windows)) // FRAME_SAMPLES
        at_once = max(FRAMES_AT_ONCE // longest, 1)
        hidden = [
            window_TD
            for first in range(0, len(windows), at_once)
            for window_TD in self._encode_windows(windows[first : first + at_once])
        ]
        return pad_sequence(torch.cat(hidden).split(frames_B), batch_first=True)

    def _encode_windows(self, windows: list[np.ndarray]) -> list[torch.Tensor]:
        """The tap's output, (T, D), of each window."""
        frames = [len(window) // FRAME_SAMPLES for window in windows]
        mel_BFT = pad_sequence([self._mel(window) for window in windows], batch_first=True).transpose(1, 2)
        modules = self._model
        hidden_BDT = gelu(modules.conv2(gelu(modules.conv1(mel_BFT.to(self._device, self._dtype)))))
        hidden_BTD = hidden_BDT.transpose(1, 2) + modules.embed_positions.weight[: hidden_BDT.shape[2]]
        mask_BT = None if self._padded else self._mask(frames)
        mask = create_bidirectional_mask(config=modules.config, inputs_embeds=hidden_BTD, attention_mask=mask_BT)
        for layer in modules.layers:
            hidden_BTD = layer(hidden_BTD, mask)
        hidden_BTD = modules.layer_norm(hidden_BTD)
        return [hidden_TD[:count] for hidden_TD, count in zip(hidden_BTD, frames, strict=True)]

    def _mel(self, window: np.ndarray) -> torch.Tensor:
        """Log-mel spectrogram (2 T, F) of a window, two frames for each frame of the encoder."""
        spectrogram = self._extractor(
            window,
            sampling_rate=SAMPLE_RATE,
            padding="max_length" if self._padded else "do_not_pad",
            max_length=self._window_frames * FRAME_SAMPLES,
            return_tensors="pt",
            device=str(self._device),
        )["input_features"]
        frames = spectrogram.shape[2] // 2
        return spectrogram[0, :, : 2 * frames].T

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "options": {"padding": self._padding}}

    def front_end(self) -> dict[str, Any]:
        return {
            "name": "WhisperFeatureExtractor",
            "sample_rate": SAMPLE_RATE,
            "mel_bins": int(self._extractor.feature_size),
            "window": int(self._extractor.n_fft),
            "hop": MEL_HOP,
            "cut_to_seconds": self._window_frames / self.frame_rate,
        }


def outline_of(config: WhisperConfig) -> Outline:
    """Width and frames of a Whisper encoder: one frame per 20 ms of audio, a shorter rest dropped."""
    return Outline(config.d_model, FRAME_SAMPLES, FRAME_SAMPLES)


def outline(settings: Mapping[str, Any], where: str) -> Outline:
    """Width and frames by config.json; see `Outline`."""
    return outline_of(read_config(WhisperConfig, settings, where))


def load(source: ModelSource, settings: Mapping[str, Any], request: EncoderRequest) -> WhisperEncoder:
    """The encoder of a checkpoint folder; nothing else of the checkpoint is read.

    Raises:
        ModelError: an incomplete or unusable checkpoint, or a layer that it does not have.
        ConfigError: a padding that Whisper does not have.
    """
    config = read_config(WhisperConfig, settings, str(source.folder))
    extractor = read_extractor(WhisperFeatureExtractor, source)
    if (extractor.feature_size, extractor.hop_length) != (config.num_mel_bins, MEL_HOP):
        raise ModelError(
            f"{source.folder}: its feature extractor makes {extractor.feature_size} mel bins every "
            f"{extractor.hop_length} samples, its model takes {config.num_mel_bins} every {MEL_HOP}; "
            "complete the checkpoint"
        )
    model = build(WhisperModules, config, source)
    load_weights(model, source, ("model.encoder.", "encoder.", ""))
    return WhisperEncoder(model, extractor, cut_off(model, model, True, source, request.layer), request)
