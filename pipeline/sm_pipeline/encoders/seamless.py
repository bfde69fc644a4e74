"""The SeamlessM4T-v2 speech encoder, tapped before its adapter.

    samples -> fbank (100 Hz, 80) -> stacked by 2 (50 Hz, 160) -> feature_projection -> Conformer layers -> layer_norm

The tap is the output of Conformer layer k; for the last layer, after `encoder.layer_norm`, which is what
`hidden_states[24]` was in transformers 4.x. transformers 5.x puts the *adapter's* output (about 6.25 Hz) last in
`hidden_states`, so the modules are run by name here, and the length is checked. The adapter is never built. Filter
banks and relative positions are ours (`frontend`, `fast_attention`), equal to Hugging Face's and faster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import SeamlessM4TFeatureExtractor, SeamlessM4Tv2Config
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder

from sm_pipeline.encoders.fast_attention import use_fast_attention
from sm_pipeline.encoders.frontend import HOP, WINDOW, FilterBank
from sm_pipeline.encoders.presets import ENCODER_PRESETS, PRESET_SEED
from sm_pipeline.models import ModelSource, open_tensors
from sm_store.errors import ModelError

SAMPLE_RATE = 16_000  # Hz, of the filter bank
FRAME_RATE = 50.0  # Hz: 10 ms filter-bank frames, stacked by 2
MIN_SAMPLES = WINDOW + HOP  # two filter-bank frames: one encoder frame
CHECKPOINT_PREFIX = "speech_encoder."  # the speech encoder inside a whole SeamlessM4T-v2 checkpoint
NOT_RUN = ("adapter.", "intermediate_ffn.", "inner_layer_norm.")  # after the tap


class SeamlessEncoder:
    """`Encoder` over Hugging Face's own SeamlessM4T-v2 classes.

    Args:
        model: the speech encoder, without adapter.
        extractor: Hugging Face's feature extractor (80-bin log-mel filter bank, normalised per utterance and bin).
        layer: Conformer layer to tap, from 1; None for the last.
        source: `id` and `revision` for the identity.
        device: where to run; dtype: precision of the forward pass.
    """

    frame_rate = FRAME_RATE

    def __init__(
        self,
        model: SeamlessM4Tv2SpeechEncoder,
        extractor: SeamlessM4TFeatureExtractor,
        layer: int | None,
        source: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        num_layers = len(model.encoder.layers)
        self.layer = num_layers if layer is None else layer
        if not 1 <= self.layer <= num_layers:
            raise ModelError(f"--layer {layer}: {source['id']} has layers 1 to {num_layers}")
        self.width = int(model.config.hidden_size)
        self._weights_sha256 = weights_sha256(model)
        self._model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        del self._model.encoder.layers[self.layer :]
        use_fast_attention(self._model.encoder.layers)
        self._normed = self.layer == num_layers
        self._filter_bank = FilterBank(extractor, device)
        self._source = source
        self._device = device
        self._dtype = dtype

    @torch.inference_mode()
    def encode(self, waves: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        """See `Encoder.encode`; utterances under 560 samples have no frame."""
        long_enough = [index for index, wave in enumerate(waves) if len(wave) >= MIN_SAMPLES]
        frames_B = [0] * len(waves)
        if not long_enough:
            return torch.zeros(len(waves), 0, self.width, device=self._device), frames_B
        inputs_BTF, mask_BT = self._front_end([waves[index] for index in long_enough])
        hidden_BTD = self._hidden_states(inputs_BTF, mask_BT)
        if hidden_BTD.shape[:2] != inputs_BTF.shape[:2]:
            raise ModelError(
                f"{self._source['id']}: layer {self.layer} gives {hidden_BTD.shape[1]} frames for "
                f"{inputs_BTF.shape[1]}; this transformers version is not supported"
            )
        hidden_BTD = hidden_BTD.float() * mask_BT.unsqueeze(-1)
        for index, count in zip(long_enough, mask_BT.sum(dim=1).tolist(), strict=True):
            frames_B[index] = int(count)
        if len(long_enough) == len(waves):
            return hidden_BTD, frames_B
        features_BTD = hidden_BTD.new_zeros(len(waves), *hidden_BTD.shape[1:])
        features_BTD[long_enough] = hidden_BTD
        return features_BTD, frames_B

    def _front_end(self, waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Filter banks stacked by 2, (B, T, 160), and the mask of valid frames, (B, T)."""
        inputs_BTF, mask_BT = self._filter_bank(waves)
        return inputs_BTF.to(self._dtype), mask_BT

    def _hidden_states(self, inputs_BTF: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Output of the tapped layer, (B, T, D)."""
        tapped: list[torch.Tensor] = []
        module = self._model.encoder if self._normed else self._model.encoder.layers[-1]
        hook = module.register_forward_hook(lambda _module, _inputs, output: tapped.append(output))
        try:
            self._model.encoder(self._model.feature_projection(inputs_BTF), attention_mask=mask_BT)
        finally:
            hook.remove()
        return tapped[-1]

    def identity(self) -> dict[str, Any]:
        tap = "encoder.layer_norm" if self._normed else f"encoder.layers[{self.layer - 1}]"
        return {
            **self._source,
            "weights_sha256": self._weights_sha256,
            "family": "seamless_m4t_v2",
            "layer": self.layer,
            "tap": tap,
            "width": self.width,
            "compute_dtype": str(self._dtype).removeprefix("torch."),
        }

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


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of every parameter and buffer: name, dtype, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.ndim else tensor.cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(array.numpy().tobytes() if tensor.ndim == 0 else memoryview(array.numpy()).cast("B"))
    return digest.hexdigest()


def build_preset(name: str) -> tuple[SeamlessM4Tv2SpeechEncoder, SeamlessM4TFeatureExtractor]:
    """The preset's architecture with weights drawn from a fixed seed; leaves the caller's random state alone."""
    config = SeamlessM4Tv2Config(**ENCODER_PRESETS[name], add_adapter=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PRESET_SEED)
        model = SeamlessM4Tv2SpeechEncoder(config)
    return model, SeamlessM4TFeatureExtractor()


def read_checkpoint(source: ModelSource) -> tuple[SeamlessM4Tv2SpeechEncoder, SeamlessM4TFeatureExtractor]:
    """The speech encoder of a SeamlessM4T-v2 checkpoint folder; nothing else of the checkpoint is read."""
    config = SeamlessM4Tv2Config.from_pretrained(source.folder)
    config.add_adapter = False
    with torch.device("meta"):
        model = SeamlessM4Tv2SpeechEncoder(config)
    tensors = open_tensors(source)
    stored = set(tensors.names())
    prefix = CHECKPOINT_PREFIX if any(name.startswith(CHECKPOINT_PREFIX) for name in stored) else ""
    wanted = [name for name in model.state_dict() if not name.startswith(NOT_RUN)]
    missing = [name for name in wanted if prefix + name not in stored]
    if missing:
        raise ModelError(
            f"{source.folder}: no {prefix}{missing[0]} among its weights ({len(missing)} missing); "
            "give a complete SeamlessM4T-v2 checkpoint"
        )
    drop_after_tap(model)
    model.load_state_dict({name: tensors.get(prefix + name) for name in wanted}, assign=True)
    return model, SeamlessM4TFeatureExtractor.from_pretrained(source.folder)


def drop_after_tap(model: SeamlessM4Tv2SpeechEncoder) -> None:
    """Remove the modules that come after the tap: they are never run."""
    del model.intermediate_ffn, model.inner_layer_norm
