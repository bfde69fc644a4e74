"""What is written about pieces of audio: a batch of pieces, several pieces as one, or one as it is written.

    waves --encoder, projector--> vectors --readout--> [Output("the dog ran", 3), ...]

Shapes: B batch, T encoder frames, D encoder width, N positions that the LLM is given, E LLM width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch

from sm_pipeline.devices import autocast
from sm_store.errors import InputError
from speechmapper.audio_features import Listening
from speechmapper.llm import FrozenLLM, Output
from speechmapper.model.recordings import batches
from speechmapper.model.streaming import TextDeltas, TokenQueue
from speechmapper.projector import Projected, Projector
from speechmapper.prompting import Instruction
from speechmapper.readout.build import Readout
from speechmapper.tasks import Task


@dataclass(frozen=True, slots=True)
class Reader:
    """Encoder, projector and readout: from waveforms (n,), float32 at 16 kHz, to text."""

    projector: Projector
    listening: Listening
    readout: Readout

    def read(self, task: Task, waves: Sequence[np.ndarray], instructions: Sequence[Instruction]) -> list[Output | None]:
        """What is written about each piece of a batch, by an instruction each; None: it is too short for a vector."""
        projected, rows = self._projected(waves)
        found: list[Output | None] = [None] * len(waves)
        if projected is None:
            return found
        with torch.inference_mode(), autocast(self.projector.device):
            answers = self.readout.answers(projected, [instructions[row] for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            found[row] = replace(answer, text=task.cleaned(answer.text))
        return found

    def read_whole(self, task: Task, waves: Sequence[np.ndarray], instruction: Instruction, name: str) -> Output:
        """What the LLM writes about consecutive pieces that it is given as one.

        Raises:
            InputError: more than the LLM can take; `name` is the recording's.
        """
        deltas = TextDeltas(self._decode, task.cleaned)
        text = "".join(self._deltas(deltas, waves, instruction, name))
        return Output(text, len(deltas.ids), len(deltas.ids) >= self.readout.max_new_tokens)

    def stream(self, task: Task, waves: Sequence[np.ndarray], instruction: Instruction, name: str) -> Iterator[str]:
        """As `read_whole`, the text piece by piece as it is written; by nearest token it comes at once."""
        if self.readout.llm is None:
            written = self.read(task, waves, [instruction] * len(waves))
            return (each.text for each in written if each is not None)
        return self._deltas(TextDeltas(self._decode, task.cleaned), waves, instruction, name)

    def _deltas(
        self, deltas: TextDeltas, waves: Sequence[np.ndarray], instruction: Instruction, name: str
    ) -> Iterator[str]:
        llm = self._llm()
        given_1NE = self._given(waves)
        prompt = llm.prompter.write(instruction)
        if len(waves) > 1:
            self._require_room(len(prompt.before) + given_1NE.shape[1] + len(prompt.after), name)
        length_1 = torch.tensor([given_1NE.shape[1]], device=given_1NE.device)
        tokens = TokenQueue()

        def generate(queue: TokenQueue) -> None:
            llm.generate(given_1NE, length_1, [prompt], self.readout.max_new_tokens, queue)

        if not given_1NE.shape[1]:
            return
        for ids in tokens.read(generate):
            delta = deltas.push(list(takewhile(lambda token: token not in llm.stop_ids, ids)))
            if delta:
                yield delta
        rest = deltas.end()
        if rest:
            yield rest

    def _given(self, waves: Sequence[np.ndarray]) -> torch.Tensor:
        """What the LLM is given for consecutive pieces, (1, N, E)."""
        rows: dict[int, torch.Tensor] = {}
        for batch in batches([float(len(wave)) for wave in waves]) if len(waves) > 1 else [[0]]:
            projected, usable = self._projected([waves[number] for number in batch])
            if projected is None:
                continue
            with torch.inference_mode(), autocast(self.projector.device):
                inputs_BNE, lengths_B = self.readout.head.inputs(projected)
            for row, inputs_NE, length in zip(usable, inputs_BNE, lengths_B.tolist(), strict=True):
                rows[batch[row]] = inputs_NE[:length]
        width = self._llm().width
        nothing = torch.zeros(0, width, device=self.projector.device)
        return torch.cat([nothing, *(rows[number] for number in sorted(rows))])[None]

    def _projected(self, waves: Sequence[np.ndarray]) -> tuple[Projected | None, list[int]]:
        """Vectors of the pieces that are long enough for one, and which pieces these are."""
        with torch.inference_mode():
            features_BTD, frames_B = self.listening.features(waves)
            usable_B = frames_B >= self.projector.config.geometry.min_frames()
            rows: list[int] = usable_B.nonzero().flatten().tolist()
            if not rows:
                return None, []
            device = self.projector.device
            with autocast(device):
                projected = self.projector.project(features_BTD[usable_B].to(device), frames_B[usable_B].to(device))
        return projected, rows

    def _require_room(self, positions: int, name: str) -> None:
        longest = getattr(self._llm().model.config, "max_position_embeddings", None)
        if longest is not None and positions + self.readout.max_new_tokens > longest:
            raise InputError(
                f"{name}: its speech takes {positions} of the LLM's {longest} positions, with too few left for an "
                "answer; give a shorter recording"
            )

    def _llm(self) -> FrozenLLM:
        if self.readout.llm is None:
            raise InputError("this needs an LLM; name one")
        return self.readout.llm

    def _decode(self, ids: list[int]) -> str:
        return str(self._llm().tokenizer.decode(ids, skip_special_tokens=True))
