"""A trained run as one object: audio in, text out.

    SpeechMapper.from_pretrained("runs/stage2").transcribe("talk.flac")
        audio -> 16 kHz -> encoder -> frames averaged -> projector -> vectors -> LLM repeats, or nearest token

A run says what it was trained for: encoder, layer, averaging and LLM are taken from it. A stage 1 run reads
its vectors out by nearest token, without an LLM, unless one is named; a stage 2 run uses the LLM it was tuned
with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from sm_pipeline.devices import autocast, choose_device
from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.models.source import resolve_model
from sm_store.errors import InputError, ModelError
from speechmapper.audio_features import Listening, load_listening, load_wave
from speechmapper.llm import load_llm
from speechmapper.projector import Projector
from speechmapper.readout.nearest import NearestToken
from speechmapper.saved_projector import load_projector, model_name

Readout = Callable[[torch.Tensor, torch.Tensor], list[str]]


class SpeechMapper:
    """Encoder, projector and readout of one run. Make one with `from_pretrained`."""

    def __init__(self, projector: Projector, listening: Listening, readout: Readout) -> None:
        self.projector = projector
        self._listening = listening
        self._readout = readout

    @classmethod
    def from_pretrained(
        cls, run: str | Path, llm: str | None = None, encoder: str | None = None, device: str = "auto"
    ) -> SpeechMapper:
        """Load a run.

        Args:
            run: run folder of `sm-train` (or its projector/).
            llm: folder, Hub id or preset; None: the LLM of a stage 2 run, the nearest token for stage 1.
            encoder: where the run's encoder is, if not where it was at extraction.
            device: auto, cpu or cuda[:N].

        Raises:
            ModelError: no usable run, encoder or LLM. IdentityMismatch: another encoder than the run's.
        """
        where = choose_device(device)
        projector = load_projector(Path(run)).to(where)
        made = projector.config.trained_for
        if not made:
            raise ModelError(
                f"{run}: its config.json lacks trained_for, what it was made for; give the folder of a run"
            )
        listening = load_listening(made, encoder, device)
        named = model_name(made["llm"]) if llm is None and made["stage"] == "stage2" else llm
        readout = generating(named, where) if named else nearest(projector, where)
        return cls(projector, listening, readout)

    def transcribe(self, audio: str | Path | np.ndarray) -> str:
        """What is said in one recording.

        Args:
            audio: a file (wav, flac, ogg, mp3), or samples (n,) at 16 kHz.

        Raises:
            InputError: a file that cannot be read, or one too short for a single vector.
        """
        return self.transcribe_batch([audio])[0]

    @torch.inference_mode()
    def transcribe_batch(self, audio: Sequence[str | Path | np.ndarray]) -> list[str]:
        """What is said in each recording; they are run together, so let them be of like length."""
        features_BTD, frames_B = self._listening.features([load_wave(item) for item in audio])
        shortest = self.projector.config.geometry.min_frames()
        for item, count in zip(audio, frames_B.tolist(), strict=True):
            if count < shortest:
                name = "the samples" if isinstance(item, np.ndarray) else str(item)
                raise InputError(f"{name}: too short to transcribe; give at least 0.2 s of audio")
        device = self.projector.device
        with autocast(device):
            return self._readout(*self.projector(features_BTD.to(device), frames_B.to(device)))


def generating(name: str, device: torch.device) -> Readout:
    """Readout by greedy generation of a frozen LLM."""
    llm = load_llm(resolve_model(name, "llm"), device)
    prompt = llm.prompter.asr()
    return lambda vectors_BUE, vectors_B: llm.generate(vectors_BUE, vectors_B, [prompt] * len(vectors_BUE))


def nearest(projector: Projector, device: torch.device) -> Readout:
    """Readout by nearest token: the LLM's embedding table and tokenizer, not the LLM."""
    target = projector.config.trained_for["target"]
    table = load_llm_table(model_name({"id": target["llm"], "revision": target["revision"]}))
    reader = NearestToken(table.table_VE, table.tokenizer, target["pad_id"], device, projector.blank)
    return lambda vectors_BUE, vectors_B: reader.texts(reader.token_ids(vectors_BUE, vectors_B))
