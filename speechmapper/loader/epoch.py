"""The order of an epoch as a pure function: (lengths, seed, epoch, budgets) -> micro-batches of indices.

    frames      [ 90, 310,  95, 300, 900, 100]        stored frames of each utterance (25 Hz)
    usable      [  y,   y,   y,   y,   n,   y]        900 is over the budget: left out and counted
    shuffle     [300, 95, 90, 310, 100]               shards first, then windows of `window` utterances
    bucket      [95, 90, 100 | 300, 310]              by length, shuffled inside a bucket; see `buckets`
    cut         [95, 90, 100] [300, 310]              as many as fit `frames` after padding: 3 x 100, 2 x 310
    steps       micro-batches in random order, `micro_batches` of them a step

No I/O, no torch, no state: the micro-batches of step s are recomputed from s (`Order.step`), so that a run
resumes from one integer. The order does not depend on the number of processes: process r of W takes the
micro-batches r, r + W, ... of each step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sm_store.errors import ConfigError

BUCKET_GROWTH = 1.1  # ratio of the narrowest bucket's edges: padding is at most about 10 %, on average 5 %


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on one micro-batch and one step.

    Args:
        frames: of one micro-batch after padding (number of utterances x longest).
        max_frames: longest utterance used; one longer than `frames` is a micro-batch of its own. None: `frames`.
        max_utterances: of one micro-batch; None for no limit.
        micro_batches: of one step.
        window: utterances shuffled and bucketed together.
        bucket_utterances: utterances of a window that a length bucket holds at least.
    """

    frames: int
    max_frames: int | None = None
    max_utterances: int | None = None
    micro_batches: int = 1
    window: int = 32_768
    bucket_utterances: int = 512


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many utterances training does not use, by reason."""

    too_long: int  # more frames than `max_frames`
    no_target: int  # text longer than the projector's output, or none

    def __str__(self) -> str:
        return f"{self.too_long} over the frame limit, {self.no_target} without usable target"


def usable(frames: np.ndarray, tokens: np.ndarray, vectors: np.ndarray, budget: Budget) -> tuple[np.ndarray, LeftOut]:
    """Which utterances can be trained on.

    Args:
        frames, tokens, vectors: (records,), int64: stored frames, target tokens, projector vectors of each.

    Returns:
        A mask (records,), bool, and the counts of what it leaves out. A text and one closing pad must fit the
        vectors.
    """
    limit = budget.max_frames or budget.frames
    has_target = (tokens > 0) & (tokens + 1 <= vectors)
    fits = frames <= limit
    return has_target & fits, LeftOut(int((has_target & ~fits).sum()), int((~has_target).sum()))


def plan_epoch(
    indices: np.ndarray, frames: np.ndarray, shards: np.ndarray, budget: Budget, seed: tuple[int, int]
) -> list[np.ndarray]:
    """Micro-batches of one epoch.

    Args:
        indices: (n,), int64, store indices of the utterances to use; frames, shards: (n,), of the same utterances.
        seed: (seed, epoch).

    Returns:
        Arrays of store indices; each index occurs once. Every batch holds
        `len * max(frames) <= budget.frames`, or one utterance.
    """
    rng = np.random.default_rng(seed)
    order = _shuffle(shards, rng)
    batches: list[np.ndarray] = []
    for start in range(0, len(order), budget.window):
        window = order[start : start + budget.window]
        window = window[np.argsort(buckets(frames[window], budget.bucket_utterances), kind="stable")]
        pieces = _cut(frames[window].tolist(), budget)
        cut = [window[piece] for piece in pieces]
        batches.extend(cut[position] for position in rng.permutation(len(cut)))
    return [indices[batch] for batch in batches]


def buckets(frames: np.ndarray, least: int) -> np.ndarray:
    """The length bucket of each utterance of a window, (n,), int64, from 0: the shortest.

        frames  [40, 41, 43, 60, 200, 210]   least 2   ->   [0, 0, 0, 1, 1, 1]; least 1: [0, 0, 0, 1, 2, 2]

    A bucket is one step of 10 % in length where at least `least` utterances have that length, and as many neighbouring
    steps as hold `least` where it has fewer. Utterances of one length have about the same number of words, and from a
    small corpus, whose every batch would have one number of words, a projector learns slowly (docs/objectives.md).

    Args:
        frames: (n,), int64, of the window's utterances; least: 1 or more.
    """
    step = np.floor(np.log(np.maximum(frames, 1)) / np.log(BUCKET_GROWTH)).astype(np.int64)
    _, position, counts = np.unique(step, return_inverse=True, return_counts=True)
    bucket_of_step = np.zeros(len(counts), np.int64)
    bucket, held, left = 0, 0, len(frames)
    for number, count in enumerate(counts.tolist()):
        bucket_of_step[number] = bucket
        held, left = held + count, left - count
        if held >= least and left >= least:
            bucket, held = bucket + 1, 0
    return bucket_of_step[position]


def batches_by_length(indices: np.ndarray, frames: np.ndarray, budget: Budget) -> list[np.ndarray]:
    """Batches of utterances of similar length for evaluation: the longest first, each utterance once.

    Args:
        indices: (n,), int64, of the utterances; frames: of all of them, by index.
        budget: its `frames` after padding and `max_utterances` bound a batch.
    """
    order = indices[np.argsort(-frames[indices], kind="stable")]
    return [order[piece] for piece in _cut(frames[order].tolist(), budget)]


def _shuffle(shards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions (n,) shard by shard, shards and positions in random order, so that reads stay near each other."""
    names, inverse = np.unique(shards, return_inverse=True)
    rank = rng.permutation(len(names))[inverse]
    return np.lexsort((rng.random(len(shards)), rank))


def _cut(lengths: list[int], budget: Budget) -> list[slice]:
    """Slices of consecutive utterances that fit the budget after padding to the longest."""
    most = budget.max_utterances or len(lengths)
    pieces: list[slice] = []
    start, longest = 0, 0
    for position, length in enumerate(lengths):
        longest = max(longest, length)
        count = position - start + 1
        if count > 1 and (count * longest > budget.frames or count > most):
            pieces.append(slice(start, position))
            start, longest = position, length
    if lengths:
        pieces.append(slice(start, len(lengths)))
    return pieces


@dataclass(slots=True)
class Order:
    """The micro-batches of every step of a run, found by step number.

    An epoch's last micro-batches that do not fill a step are not used in that epoch (`dropped` counts their
    utterances); they are different ones in each epoch.

    Raises:
        ConfigError: no utterance can be used, or fewer micro-batches than one step needs.
    """

    indices: np.ndarray
    frames: np.ndarray
    shards: np.ndarray
    budget: Budget
    seed: int
    _steps: list[int] = field(default_factory=list)  # steps before each epoch's end
    _epoch: int = -1  # the epoch that `_batches` belongs to
    _batches: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.indices) == 0:
            raise ConfigError("no utterance can be used; check the split, data.frames and the target set")

    def sha256(self) -> str:
        """Checksum of what the order depends on besides budget and seed: the utterances, their lengths and shards."""
        digest = hashlib.sha256()
        for each in (self.indices, self.frames, self.shards):
            digest.update(np.ascontiguousarray(each, dtype="<i8").data)
        return digest.hexdigest()

    def step(self, step: int) -> list[np.ndarray]:
        """The micro-batches of step `step`, from 0."""
        epoch, first = self.locate(step)
        batches = self.epoch(epoch)
        start = (step - first) * self.budget.micro_batches
        return batches[start : start + self.budget.micro_batches]

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch of a step and the epoch's first step."""
        while not self._steps or step >= self._steps[-1]:
            count = len(self.epoch(len(self._steps))) // self.budget.micro_batches
            if count == 0:
                raise ConfigError(
                    f"the data gives {len(self.epoch(len(self._steps)))} micro-batches per epoch, fewer "
                    f"than one step; lower data.micro_batches or data.frames"
                )
            self._steps.append((self._steps[-1] if self._steps else 0) + count)
        epoch = int(np.searchsorted(self._steps, step, side="right"))
        return epoch, self._steps[epoch - 1] if epoch else 0

    def ends(self, step: int) -> list[int]:
        """First steps of the epochs after the first, up to `step`; `recall` takes them, to avoid planning again."""
        return [end for end in self._steps if end <= step]

    def recall(self, ends: Sequence[int]) -> None:
        """Take the `ends` of the same order: a resumed run need not plan the finished epochs again."""
        self._steps = list(ends)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """All micro-batches of an epoch; the epoch planned last is kept in memory."""
        if epoch != self._epoch:
            self._batches = plan_epoch(self.indices, self.frames, self.shards, self.budget, (self.seed, epoch))
            self._epoch = epoch
        return self._batches

    def dropped(self, epoch: int) -> int:
        """Number of utterances in the micro-batches of an epoch that do not fill a step."""
        batches = self.epoch(epoch)
        left = len(batches) % self.budget.micro_batches
        return sum(len(batch) for batch in batches[len(batches) - left :]) if left else 0

    def padding(self, epoch: int) -> float:
        """Share of an epoch's frames that are padding, 0 to 1."""
        length = dict(zip(self.indices.tolist(), self.frames.tolist(), strict=True))
        sizes = [[length[index] for index in batch.tolist()] for batch in self.epoch(epoch)]
        padded = sum(len(batch) * max(batch) for batch in sizes)
        return 1 - sum(sum(batch) for batch in sizes) / padded
