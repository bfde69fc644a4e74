"""A trained run as one object: audio in, text out.

    SpeechMapper.from_pretrained("runs/stage2").transcribe("talk.flac")
        audio -> 16 kHz -> encoder -> frames averaged -> projector -> vectors -> LLM repeats, or nearest token

A run says what it was trained for: encoder, layer, averaging and LLM are taken from it. A stage 1 run reads
its vectors out by nearest token, without an LLM, unless one is named; a stage 2 run uses the LLM it was tuned
with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sm_pipeline.devices import autocast, choose_device
from sm_store.errors import InputError, ModelError, one_line
from speechmapper.audio_features import Audio, Listening, load_listening, load_wave
from speechmapper.config import NONE, LlmConfig
from speechmapper.llm_loading import check_llm
from speechmapper.projector import Projector
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import Readout, build_readout, require_search
from speechmapper.saved_projector import load_config, load_projector, model_name, recorded_model
from speechmapper.tasks import ASR, Item, Task


class SpeechMapper:
    """Encoder, projector and readout of one run. Make one with `from_pretrained`."""

    def __init__(self, projector: Projector, listening: Listening, readout: Readout) -> None:
        self.projector = projector
        self._listening = listening
        self._readout = readout

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path,
        llm: str | None = None,
        encoder: str | None = None,
        device: str = "auto",
        search: BeamSearch | None = None,
    ) -> SpeechMapper:
        """Load a run.

        Args:
            run: run folder of `sm-train` (or its projector/).
            llm: folder, Hub id or preset; None: the LLM of a stage 2 run, quantised as there, the nearest token for
                stage 1.
            encoder: where the run's encoder is, if not where it was at extraction.
            device: auto, cpu or cuda[:N].
            search: how a CTC projector is read: `BeamSearch(16, read_hotwords(Path("names.txt")))`
                (speechmapper/readout); None: greedily.

        Raises:
            ModelError: no usable run, encoder or LLM. IdentityMismatch: another encoder than the run's.
            ConfigError: a run that cannot be read by beam search.
        """
        where = choose_device(device)
        if search is not None:
            config = load_config(Path(run))
            require_search(search, config, _llm_of(config.trained_for, llm))
        projector = load_projector(Path(run)).to(where)
        made = projector.config.trained_for
        if not made:
            raise ModelError(
                f"{run}: its config.json lacks trained_for, what it was made for; give the folder of a run"
            )
        name = _checked_llm(made, llm)
        listening = load_listening(made, encoder, device)
        how = _recorded_config(made) if _is_tuned(made) and llm is None else None
        readout = build_readout(projector, name, None, search=search, llm_config=how)
        return cls(projector, listening, readout)

    def transcribe(self, audio: Audio) -> str:
        """What is said in one recording.

        Args:
            audio: a file (wav, flac, ogg, mp3), or samples (n,) at 16 kHz as an array or tensor.

        Raises:
            InputError: a file that cannot be read, or one too short for a single vector.
        """
        return self.transcribe_batch([audio])[0]

    def transcribe_batch(self, audio: Sequence[Audio]) -> list[str]:
        """What is said in each recording; they are run together, so let them be of similar length.

        Raises:
            InputError: as `transcribe`, or one recording instead of a list of them.
        """
        return self.run(ASR, audio)

    @torch.inference_mode()
    def run(self, task: Task, audio: Sequence[Audio], item: Item | None = None) -> list[str]:
        """The answer to one task about each recording, in the wordings the run was trained with.

        Args:
            item: what the task asks: the language of a translation, the question; None: nothing in particular.

        Raises:
            InputError: a file that cannot be read, or one too short for a single vector.
            ConfigError: a task that needs an LLM, or no wording of it for the item's language.
        """
        self._readout.require_task(task)
        if isinstance(audio, str | Path | np.ndarray | torch.Tensor):
            raise InputError("one recording where a list of them is needed; give [recording]")
        if not len(audio):
            return []
        task = task.as_trained(self.projector.config.trained_for)
        instruction = task.instruction(item or Item())
        features_BTD, frames_B = self._listening.features([load_wave(recording) for recording in audio])
        shortest = self.projector.config.geometry.min_frames()
        for recording, count in zip(audio, frames_B.tolist(), strict=True):
            if count < shortest:
                name = str(recording) if isinstance(recording, str | Path) else "the samples"
                raise InputError(f"{name}: too short to transcribe; give at least 0.2 s of audio")
        device = self.projector.device
        with autocast(device):
            projected = self.projector.project(features_BTD.to(device), frames_B.to(device))
            outputs = self._readout.read(projected, [instruction] * len(audio))
        return [task.cleaned(output) for output in outputs]


def _llm_of(made: Mapping[str, Any], llm: str | None) -> str | None:
    """The LLM that is named, else the one that a stage 2 run was tuned with."""
    return model_name(made["llm"]) if llm is None and _is_tuned(made) else llm


def _checked_llm(made: Mapping[str, Any], llm: str | None) -> str | None:
    """The LLM as in `_llm_of`, which is there and can be run.

    Raises:
        ModelError: it is not; of one that the run has recorded, says so.
    """
    name = _llm_of(made, llm)
    if llm is not None:
        check_llm(llm)
    elif name is not None:
        with recorded_model(name, "the LLM that this run was tuned with", "name where it is now with --llm"):
            check_llm(name, _recorded_config(made))
    return name


def _recorded_config(made: Mapping[str, Any]) -> LlmConfig:
    """How a run loaded its LLM."""
    return LlmConfig(quantize=made["llm"].get("quantize", NONE))


def _is_tuned(made: Mapping[str, Any]) -> bool:
    return made.get("stage") == "stage2"


def unusable_files(audio: Sequence[Path]) -> dict[Path, str]:
    """What is wrong with each file that cannot be read, in one line; every file is decoded, no model is needed."""
    faults: dict[Path, str] = {}
    for path in audio:
        try:
            load_wave(path)
        except InputError as error:
            faults[path] = one_line(error)
    return faults
