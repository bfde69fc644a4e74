"""Log-mel filter banks of a batch of waveforms, in torch on the encoder's device.

    bank = FilterBank(SeamlessM4TFeatureExtractor(), device)
    inputs_BTF, mask_BT = bank([wave, ...])      (B, T, 160) at 50 Hz, True where there is audio

    samples -> windows of 25 ms every 10 ms -> less their mean, pre-emphasised, Povey window -> power -> 80 mel bins
    -> log -> per utterance and bin: mean 0, variance 1 -> two frames stacked into one

What Hugging Face's extractor computes in numpy, frame by frame in Python, is done here for all frames of a batch at
once; its mel filters, window and settings are taken from it. Computed in float64 and rounded where it rounds, it
differs by less than 1e-4, on recordings by about 1e-5. Only where a bin's energy hardly changes in a whole utterance
(digital silence, a pure tone, two or three frames) does the division by its tiny deviation magnify the last bits of
Hugging Face's float32 sums.

Shapes: B batch, S samples, T frames after stacking, F features of one (bins x stacked).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import SeamlessM4TFeatureExtractor

WINDOW = 400  # samples (25 ms)
HOP = 160  # samples (10 ms)
FFT = 512
PREEMPHASIS = 0.97
MEL_FLOOR = 1.192092955078125e-07
SCALE = float(2**15)  # Kaldi's filter banks are of 16-bit integers
VARIANCE_FLOOR = 1e-7
_ROWS = {"cpu": 256}  # windows worked on at once: what the processor's cache holds; elsewhere many
_MANY = 1 << 18


class FilterBank:
    """The front end of SeamlessM4T-v2 and w2v-BERT 2.0.

    Args:
        extractor: Hugging Face's, whose settings hold. device: where to compute.
    """

    def __init__(self, extractor: SeamlessM4TFeatureExtractor, device: torch.device) -> None:
        self.mel_bins, self.stacked = int(extractor.num_mel_bins), int(extractor.stride)
        self._device = device
        self._window = torch.as_tensor(np.asarray(extractor.window, np.float64) * SCALE, device=device)
        self._filters = torch.as_tensor(np.asarray(extractor.mel_filters, np.float64), device=device)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest waveform that has a frame."""
        return WINDOW + (self.stacked - 1) * HOP

    def __call__(self, waves: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and mask of float32 waveforms (S,) at 16 kHz of at least `min_samples` each.

        Returns:
            float32 (B, T, F), and bool (B, T), False where less than a whole frame is left.
        """
        frames_B = [(len(wave) - WINDOW) // HOP + 1 for wave in waves]
        windows = torch.cat([wave.unfold(0, WINDOW, HOP) for wave in self._on_device(waves)])
        rows_at_once = _ROWS.get(self._device.type, _MANY)
        rows = torch.cat([self._log_mel(part) for part in windows.split(rows_at_once)]).split(frames_B)
        longest = -(-max(frames_B) // self.stacked) * self.stacked
        inputs = torch.zeros(len(waves), longest, self.mel_bins, device=self._device)
        for place, mel in enumerate(rows):
            inputs[place, : len(mel)] = _normalised(mel)
        counts_B = torch.tensor([frames // self.stacked for frames in frames_B], device=self._device)
        steps = longest // self.stacked
        mask_BT = torch.arange(steps, device=self._device) < counts_B.unsqueeze(1)
        return inputs.view(len(waves), steps, self.mel_bins * self.stacked), mask_BT

    def _on_device(self, waves: Sequence[np.ndarray]) -> Sequence[torch.Tensor]:
        """The waveforms where the work is done; a GPU gets all of them in one transfer."""
        if self._device.type != "cuda":
            return [torch.from_numpy(wave).to(self._device) for wave in waves]
        samples = torch.from_numpy(np.concatenate(waves)).pin_memory()
        return samples.to(self._device, non_blocking=True).split([len(wave) for wave in waves])

    def _log_mel(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows of samples (n, 400) to log mel energies (n, bins), float32."""
        samples = windows.to(torch.float64)
        samples -= samples.mean(dim=1, keepdim=True)
        shaped = samples.new_zeros(len(samples), FFT)
        shaped[:, 0] = (1 - PREEMPHASIS) * samples[:, 0]
        torch.add(samples[:, 1:], samples[:, :-1], alpha=-PREEMPHASIS, out=shaped[:, 1:WINDOW])
        shaped[:, :WINDOW] *= self._window
        parts = torch.view_as_real(torch.fft.rfft(shaped))
        power = parts[..., 0].square().addcmul_(parts[..., 1], parts[..., 1])
        return (power @ self._filters).clamp_min_(MEL_FLOOR).log_().float()


def _normalised(mel: torch.Tensor) -> torch.Tensor:
    """(n, bins) float32 with mean 0 and variance 1 in each bin."""
    mean = mel.mean(dim=0, keepdim=True, dtype=torch.float64).float()
    centred = mel - mean
    variance = centred.double().square().sum(dim=0, keepdim=True) / (len(mel) - 1)
    return centred / (variance.float() + VARIANCE_FLOOR).sqrt()
