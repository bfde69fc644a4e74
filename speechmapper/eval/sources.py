"""Where an evaluation gets its speech: a store, or the audio of a manifest.

    source.batches(source.numbers())->  Heard(features, lengths, targets), a batch of like length at a time
    source.id(7), source.fields(7)  ->  "test-00007", Fields("the dog ran", 1.2)

Both give the same features for the same audio; a store also has the true embeddings to measure distances to. Utterances
that cannot be used are listed with their reasons (`rejects`), as an extraction lists them.

Shapes: B batch, T encoder frames, D encoder width, U projector vectors, E LLM width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from sm_pipeline.audio import SAMPLE_RATE, Cut, file_seconds, read_audio
from sm_pipeline.extraction.plan import same_audio
from sm_pipeline.manifest import Manifest, read_manifest
from sm_store import Fields, Store
from sm_store.errors import SampleError
from sm_store.records import Reject
from speechmapper.audio_features import Listening, load_listening
from speechmapper.eval.degrade import Degrade
from speechmapper.loader.data import TEST_SPLIT, choose_split, split_of
from speechmapper.loader.epoch import Budget, batches_by_length
from speechmapper.loader.prefetch import as_tensor
from speechmapper.projector import Projector
from speechmapper.saved_projector import matching_target, require_features
from speechmapper.tasks import StoreFields

ALL = slice(None)  # of the batches
FRAMES_OF_A_BATCH = 4096  # after padding
FRAME_RATE = 25.0  # Hz, to turn seconds of audio into about so many frames
TOO_SHORT = "too_short"  # of the ledger's reasons (`sm_store.ledger.REASONS`)


@dataclass(frozen=True, slots=True)
class Heard:
    """A batch of features.

    Attributes:
        numbers: of the utterances in their source.
        targets_BUE, tokens_B: true embeddings and token counts, where the source has them.
        texts: what the LLM is given in place of speech (cascade.py); the features are empty then.
    """

    numbers: Sequence[int]
    features_BTD: torch.Tensor
    frames_B: torch.Tensor
    targets_BUE: torch.Tensor | None = None
    tokens_B: torch.Tensor | None = None
    texts: Sequence[str] | None = None

    def of_rows(self, rows: Sequence[int]) -> Heard:
        """The batch with these rows, each as often as it is named."""
        chosen = torch.tensor(rows)
        targets, tokens = (None if each is None else each[chosen] for each in (self.targets_BUE, self.tokens_B))
        numbers = [self.numbers[row] for row in rows]
        texts = None if self.texts is None else [self.texts[row] for row in rows]
        return Heard(numbers, self.features_BTD[chosen], self.frames_B[chosen], targets, tokens, texts)


class Source(Protocol):
    """Utterances to evaluate on."""

    split: str | None

    def __len__(self) -> int:
        """How many utterances."""

    def numbers(self) -> Sequence[int]:
        """The numbers of its utterances."""

    def batches(self, numbers: Sequence[int], share: slice = ALL) -> Iterator[Heard]:
        """Each of these utterances once, in batches of like length, the longest first; `share`: of the batches."""

    def id(self, number: int) -> str:
        """The id of an utterance."""

    def fields(self, number: int) -> Fields:
        """Its text fields."""

    def rejects(self) -> Sequence[Reject]:
        """Utterances that could not be used so far, by id, with the ledger's reasons."""


class StoreSource:
    """Utterances of a store.

    Raises:
        IdentityMismatch: features of another encoder than the projector's. ConfigError: no such split.
    """

    def __init__(self, path: Path, projector: Projector, split: str | None, most: int) -> None:
        self.store = Store.open(path)
        require_features(projector, self.store.identity, f"store {path}")
        self.split = choose_split(self.store, split, TEST_SPLIT)
        self.target = matching_target(self.store, projector)
        everything = np.arange(len(self.store), dtype=np.int64)
        indices = self.store.select(split=self.split) if self.split else everything
        long_enough = self.store.frames[indices] >= projector.config.geometry.min_frames()
        self._indices, self._short = indices[long_enough], indices[~long_enough]
        self._geometry = projector.config.geometry
        self._ids, self._fields = self.store.columns(["id"])["id"], StoreFields(self.store)
        self._budget = Budget(FRAMES_OF_A_BATCH, max_utterances=most)

    def __len__(self) -> int:
        return len(self._indices)

    def numbers(self) -> Sequence[int]:
        """See `Source`: indices of the store."""
        indices: list[int] = self._indices.tolist()
        return indices

    def batches(self, numbers: Sequence[int], share: slice = ALL) -> Iterator[Heard]:
        """See `Source`."""
        for batch in batches_by_length(np.asarray(numbers, np.int64), self.store.frames, self._budget)[share]:
            data = self.store.read(batch, targets=self.target, geometry=self._geometry)
            targets = as_tensor(data.targets_BUE) if data.targets_BUE is not None else None
            tokens = as_tensor(data.tokens_B) if data.tokens_B is not None else None
            yield Heard(batch.tolist(), as_tensor(data.features_BTD), as_tensor(data.frames_B), targets, tokens)

    def id(self, number: int) -> str:
        """See `Source`."""
        return str(self._ids[number].as_py())

    def fields(self, number: int) -> Fields:
        """See `Source`."""
        return self._fields[number]

    def rejects(self) -> Sequence[Reject]:
        """See `Source`: too short for one vector."""
        least = self._geometry.min_frames()
        return [_too_short(self.id(index), int(self.store.frames[index]), least) for index in self._short.tolist()]


class ManifestSource:
    """Utterances of a manifest, encoded as they are needed.

    Args:
        degrade: makes an utterance's audio worse first, (wave, id) -> wave; None: heard as it is.
        encoder: where the run's encoder is; None: where it was at extraction.

    Raises:
        ManifestError: a bad line, or no such split. ModelError, IdentityMismatch: not the run's encoder.
    """

    def __init__(
        self,
        path: Path,
        projector: Projector,
        split: str | None,
        most: int,
        degrade: Degrade | None = None,
        encoder: str | None = None,
    ) -> None:
        self._manifest: Manifest = read_manifest(path)
        present = {utterance.split for utterance in self._manifest.utterances if utterance.split is not None}
        self.split = split_of(sorted(present), split, TEST_SPLIT, str(path))
        self._utterances = self._manifest.select(self.split)
        self._degrade = degrade
        self._listening: Listening = load_listening(projector.config.trained_for, encoder, str(projector.device))
        self._shortest = projector.config.geometry.min_frames()
        self._most = most
        self._budget = Budget(FRAMES_OF_A_BATCH, max_utterances=most)
        self._rejects: list[Reject] = []
        self._seconds: dict[int, float] = {}  # of audio that was read

    def __len__(self) -> int:
        return len(self._utterances)

    def numbers(self) -> Sequence[int]:
        """See `Source`."""
        return range(len(self))

    def batches(self, numbers: Sequence[int], share: slice = ALL) -> Iterator[Heard]:
        """See `Source`; utterances whose audio cannot be used are left out and listed. Audio that several utterances
        share (questions about one document) is decoded and encoded once."""
        groups = [[numbers[at] for at in group] for group in same_audio([self._sound(number) for number in numbers])]
        frames = np.array([self._about_frames(group[0]) for group in groups], np.int64)
        order = np.arange(len(groups), dtype=np.int64)
        for batch in batches_by_length(order, frames, self._budget)[share]:
            yield from self._heard([groups[place] for place in batch.tolist()])

    def _heard(self, groups: Sequence[Sequence[int]]) -> Iterator[Heard]:
        """Batches of the utterances of some groups of the same audio, each group encoded once."""
        waves = [(group, wave) for group in groups if (wave := self._wave(group)) is not None]
        if not waves:
            return
        features_BTD, frames_B = self._listening.features([wave for _, wave in waves])
        numbers: list[int] = []
        rows: list[int] = []
        for row, (group, count) in enumerate(zip((group for group, _ in waves), frames_B.tolist(), strict=True)):
            if count < self._shortest:
                self._rejects += [_too_short(self.id(number), count, self._shortest) for number in group]
                continue
            numbers += group
            rows += [row] * len(group)
        at_once = min(self._most, max(1, FRAMES_OF_A_BATCH // features_BTD.shape[1]))
        for start in range(0, len(numbers), at_once):
            chosen = torch.tensor(rows[start : start + at_once])
            yield Heard(numbers[start : start + at_once], features_BTD[chosen], frames_B[chosen])

    def id(self, number: int) -> str:
        """See `Source`."""
        return self._utterances[number].id

    def fields(self, number: int) -> Fields:
        """See `Source`; the duration is that of the audio, once it was read."""
        utterance = self._utterances[number]
        return utterance.fields(self._seconds.get(number, utterance.duration or 0.0))

    def rejects(self) -> Sequence[Reject]:
        """See `Source`: audio missing, broken, or too short for one vector."""
        return self._rejects

    def _sound(self, number: int) -> Hashable:
        """What is encoded for an utterance: its cut of a file. Each is degraded in its own way."""
        utterance = self._utterances[number]
        return utterance.segment if self._degrade is None else (utterance.segment, utterance.id)

    def _about_frames(self, number: int) -> int:
        utterance = self._utterances[number]
        seconds = utterance.duration or file_seconds(self._manifest.audio_path(utterance)) or 0.0
        return max(1, int(seconds * FRAME_RATE))

    def _wave(self, group: Sequence[int]) -> np.ndarray | None:
        """The audio (samples,) of utterances that share it; None where it cannot be used, which is listed for each."""
        utterance = self._utterances[group[0]]
        try:
            cut = Cut(utterance.offset, utterance.duration)
            wave = read_audio(self._manifest.audio_path(utterance), cut, sha256=utterance.sha256).samples
        except SampleError as error:
            self._rejects += [Reject(self.id(number), error.reason, error.detail) for number in group]
            return None
        self._seconds |= dict.fromkeys(group, len(wave) / SAMPLE_RATE)
        return wave if self._degrade is None else self._degrade(wave, utterance.id)


def _too_short(id_: str, frames: int, least: int) -> Reject:
    return Reject(id_, TOO_SHORT, f"{frames} frames; one vector takes {least}")
