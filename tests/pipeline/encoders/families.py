"""Small random checkpoints of every family, and what Hugging Face's own classes make of one utterance alone.

made = make("wav2vec2-xlsr", folder)       folder as save_pretrained writes it for a whole model
made.reference(wave, layer=2)              (T, D): the layer's output in the whole model's own forward pass
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from sm_pipeline.encoders.frontend import FilterBank

RATE = 16_000
LAYERS = 3
WIDTH = 48
WHISPER_SECONDS = 2  # in place of 30
SMALL = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 3, "intermediate_size": 64,
    "vocab_size": 20,
}  # fmt: skip
CONVOLUTIONS = {
    **SMALL, "conv_dim": (16,) * 7, "num_feat_extract_layers": 7, "num_conv_pos_embeddings": 16,
    # 16 channels per group, real models have 48 or more: with fewer, oneDNN's bfloat16 convolution is wrong on AMX.
    "num_conv_pos_embedding_groups": 3, "num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8,
}  # fmt: skip
XLSR = {**CONVOLUTIONS, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
AT_25_HZ = {
    **CONVOLUTIONS, "conv_dim": (16,) * 8, "num_feat_extract_layers": 8, "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2), "conv_pos_batch_norm": True,
}  # fmt: skip
WHISPER = {
    "d_model": WIDTH, "encoder_layers": LAYERS, "encoder_attention_heads": 3, "encoder_ffn_dim": 64,
    "decoder_layers": 1, "decoder_attention_heads": 3, "decoder_ffn_dim": 64, "num_mel_bins": 80,
    "max_source_positions": WHISPER_SECONDS * 50, "vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "decoder_start_token_id": 1, "max_target_positions": 16,
}  # fmt: skip
W2V_BERT = {**SMALL, "add_adapter": True, "conv_depthwise_kernel_size": 5, "feature_projection_input_dim": 160}


@dataclass(frozen=True, slots=True)
class Kind:
    """A checkpoint to make.

    Attributes:
        model, config, settings: names of Hugging Face's classes, and their arguments.
        family: `model_type`. extractor: makes its feature extractor.
        final_norm: whether the last layer is tapped after the stack's `layer_norm`.
        frame_rate: in Hz. field: samples of the shortest audio that has a frame.
    """

    family: str
    model: str
    config: str
    settings: dict[str, Any]
    extractor: Callable[[], Any]
    final_norm: bool = False
    frame_rate: float = 50.0
    field: int = 400


def waveform(normalised: bool) -> Callable[[], Any]:
    return lambda: Wav2Vec2FeatureExtractor(do_normalize=normalised, return_attention_mask=normalised)


KINDS = {
    "whisper": Kind(
        "whisper", "WhisperForConditionalGeneration", "WhisperConfig", WHISPER,
        lambda: WhisperFeatureExtractor(chunk_length=WHISPER_SECONDS), final_norm=True, field=320,
    ),
    "wav2vec2-base": Kind("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", CONVOLUTIONS, waveform(False)),
    "wav2vec2-plain": Kind("wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", CONVOLUTIONS, waveform(True)),
    "wav2vec2-xlsr": Kind(
        "wav2vec2", "Wav2Vec2ForPreTraining", "Wav2Vec2Config", XLSR, waveform(True), final_norm=True
    ),
    "hubert": Kind("hubert", "HubertModel", "HubertConfig", CONVOLUTIONS, waveform(True)),
    "hubert-large": Kind("hubert", "HubertForCTC", "HubertConfig", XLSR, waveform(True), final_norm=True),
    "mhubert-25hz": Kind(
        "hubert", "HubertModel", "HubertConfig", AT_25_HZ, waveform(False), frame_rate=25.0, field=720
    ),
    "wavlm": Kind("wavlm", "WavLMModel", "WavLMConfig", CONVOLUTIONS, waveform(False)),
    "wavlm-large": Kind("wavlm", "WavLMForCTC", "WavLMConfig", XLSR, waveform(True), final_norm=True),
    "w2v-bert": Kind(
        "wav2vec2-bert", "Wav2Vec2BertModel", "Wav2Vec2BertConfig", W2V_BERT, SeamlessM4TFeatureExtractor, field=560
    ),
    "w2v-bert-ctc": Kind(
        "wav2vec2-bert", "Wav2Vec2BertForCTC", "Wav2Vec2BertConfig", W2V_BERT, SeamlessM4TFeatureExtractor, field=560
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint and the whole model that is in it."""

    name: str
    kind: Kind
    folder: Path
    model: Any

    @property
    def encoder(self) -> Any:
        """Hugging Face's encoder with its front end: what takes the feature extractor's output."""
        if self.kind.family == "whisper":
            return self.model.model.encoder
        return getattr(self.model, self.model.base_model_prefix, self.model)

    @torch.no_grad()
    def reference(self, wave: np.ndarray, layer: int = LAYERS) -> torch.Tensor:
        """Output (T, D) of a layer, one utterance alone; of the last, after the final norm where there is one."""
        stack = self.encoder if self.kind.family == "whisper" else self.encoder.encoder
        last = self.kind.final_norm and layer == LAYERS
        seen: list[torch.Tensor] = []
        tapped = stack.layer_norm if last else stack.layers[layer - 1]
        hook = tapped.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        self.encoder(self.inputs(wave))
        hook.remove()
        frames = len(wave) // 320 if self.kind.family == "whisper" else None
        return (seen[0][0] if isinstance(seen[0], tuple) else seen[0])[0, :frames]

    def inputs(self, wave: np.ndarray) -> torch.Tensor:
        """What the extractor makes of it; filter banks are ours, which other tests compare with Hugging Face's."""
        extractor = self.kind.extractor()
        if isinstance(extractor, SeamlessM4TFeatureExtractor):
            inputs, mask = FilterBank(extractor, torch.device("cpu"))([wave])
            return inputs[:, : int(mask.sum())]
        return extractor(wave, sampling_rate=RATE, return_tensors="pt")[extractor.model_input_names[0]]


def make(name: str, folder: Path) -> Made:
    """Write a checkpoint with weights of a fixed seed."""
    kind = KINDS[name]
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        model = getattr(transformers, kind.model)(getattr(transformers, kind.config)(**kind.settings)).eval()
        for key, tensor in model.state_dict().items():  # norms that do nothing would hide what is around them
            if tensor.is_floating_point():
                tensor += 0.05 * torch.rand_like(tensor) * (1 if "running_var" in key else torch.randn_like(tensor))
    model.save_pretrained(folder)
    kind.extractor().save_pretrained(folder)
    return Made(name, kind, folder, model)


def waves(*seconds: float, seed: int = 0) -> list[np.ndarray]:
    """Noise, louder and quieter."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(int(size * RATE)).astype(np.float32) * rng.uniform(0.02, 0.3) for size in seconds]
