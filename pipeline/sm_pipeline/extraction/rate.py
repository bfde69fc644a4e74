"""How fast an encoder is on this device, measured on a sample of the corpus; the features are discarded.

    measure_rate(config, manifest, manifest.utterances)       Rate(hours_per_hour=2810.0, device="NVIDIA H200")

One device, or on a CPU one core, as a worker has. Audio is read before the timer starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sm_pipeline.announce import announced
from sm_pipeline.audio import SAMPLE_RATE, Cut, read_audio
from sm_pipeline.config import ExtractConfig
from sm_pipeline.devices import choose_device
from sm_pipeline.encoders import load_encoder
from sm_pipeline.extraction.encoding import BatchEncoder, keep_memory, single_thread
from sm_pipeline.extraction.plan import plan_batches
from sm_pipeline.manifest import Manifest, Utterance
from sm_store.errors import ManifestError, SampleError

SECONDS = {"cpu": 60.0, "cuda": 1800.0}  # of audio
TRIED = 2000  # utterances tried before giving up


@dataclass(frozen=True, slots=True)
class Rate:
    """Hours of audio that one device encodes in an hour, and what the device is."""

    hours_per_hour: float
    device: str


def measure_rate(config: ExtractConfig, manifest: Manifest, utterances: Sequence[Utterance]) -> Rate:
    """Measure the rate on utterances spread over the corpus, after a warm-up.

    Raises:
        ManifestError: none of the sample's audio can be read. ModelError: the encoder cannot be loaded.
    """
    device = choose_device(config.device)
    waves = _sample(config, manifest, utterances, SECONDS.get(device.type, SECONDS["cpu"]))
    with announced(f"loading encoder {config.encoder}"):
        encoder = load_encoder(config.encoder, config.layer, str(device), config.compute_dtype)
    batches = plan_batches([len(wave) / SAMPLE_RATE for wave in waves], config.batch_on(str(device)))
    encode = BatchEncoder(encoder, config.average, config.dtype)
    if device.type == "cpu":
        keep_memory()
    with single_thread(str(device)):
        _encode(encode, [waves[index] for index in batches[-1]])
        began = time.monotonic()
        for batch in batches:
            _encode(encode, [waves[index] for index in batch])
        taken = time.monotonic() - began
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU core"
    return Rate(sum(map(len, waves)) / SAMPLE_RATE / taken, name)


def _encode(batches: BatchEncoder, waves: Sequence[np.ndarray]) -> None:
    for part in batches.start(waves):
        part.features()


def _sample(
    config: ExtractConfig, manifest: Manifest, utterances: Sequence[Utterance], seconds: float
) -> list[np.ndarray]:
    """Waveforms of utterances spread over the corpus, (samples,) float32 each, at least `seconds` in total."""
    order = np.random.default_rng(0).permutation(len(utterances))[:TRIED]
    waves: list[np.ndarray] = []
    for index in order.tolist():
        utterance = utterances[index]
        try:
            cut = Cut(utterance.offset, utterance.duration)
            waves.append(read_audio(manifest.audio_path(utterance), cut, config.max_seconds).samples)
        except SampleError:  # extraction will reject it
            continue
        if sum(map(len, waves)) >= seconds * SAMPLE_RATE:
            break
    if not waves:
        raise ManifestError(f"{manifest.path}: none of {len(order)} utterances can be read; check --audio-root")
    return waves
