"""The plan of an extraction: which utterances make which shard, and which are encoded together. Pure code.

    rule = UnitRule(bytes_per_second=51_200)            1024 numbers of 2 bytes at 25 Hz
    plan_units(manifest.utterances, rule)[3]            WorkUnit(shard=3, start=1536, stop=2048, ...)
    same_audio([question_1, question_2, other])         [[0, 1], [2]]
    plan_batches([3.1, 12.0, 2.9, 11.8], budget=24.0)   [[1, 3], [0, 2]]

A unit is a contiguous slice of the manifest and becomes one shard. Where it is cut depends on the manifest
and on the rule, which is part of the store's identity, and on nothing else: not on the number of workers,
the speed of the encoder, or the files on disk. So any worker makes the same shard, and repairing a file later
moves none.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from sm_pipeline.config import UNIT_UTTERANCES
from sm_pipeline.manifest import Utterance
from sm_store.errors import ConfigError

UNIT_BYTES = 256 * 2**20
ASSUMED_SECONDS = 10.0  # of an utterance whose duration the manifest does not say


@dataclass(frozen=True, slots=True)
class UnitRule:
    """When a unit is full: at `max_utterances`, or before its features would exceed `max_bytes`."""

    bytes_per_second: float
    max_utterances: int = UNIT_UTTERANCES
    max_bytes: int = UNIT_BYTES

    def __post_init__(self) -> None:
        if self.max_utterances < 1 or self.max_bytes < 1:
            raise ConfigError(f"--shard-utterances {self.max_utterances}: a shard holds at least one utterance")


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """Utterances `start` to `stop` (exclusive) of those selected, which become shard `shard`.

    `seconds` estimates their audio.
    """

    shard: int
    start: int
    stop: int
    seconds: float

    def __len__(self) -> int:
        return self.stop - self.start


def plan_units(utterances: Sequence[Utterance], rule: UnitRule) -> list[WorkUnit]:
    """Cut the utterances into work units, in order, each utterance exactly once."""
    units: list[WorkUnit] = []
    start, seconds = 0, 0.0
    for index, utterance in enumerate(utterances):
        more = assumed_seconds(utterance)
        full = index - start >= rule.max_utterances
        heavy = index > start and (seconds + more) * rule.bytes_per_second > rule.max_bytes
        if full or heavy:
            units.append(WorkUnit(len(units), start, index, seconds))
            start, seconds = index, 0.0
        seconds += more
    if utterances:
        units.append(WorkUnit(len(units), start, len(utterances), seconds))
    return units


def same_audio(segments: Sequence[Hashable]) -> list[list[int]]:
    """Positions of equal segments (`Utterance.segment`), in order of the first of each; they are encoded once."""
    groups: dict[Hashable, list[int]] = {}
    for position, segment in enumerate(segments):
        groups.setdefault(segment, []).append(position)
    return list(groups.values())


def plan_batches(seconds: Sequence[float], budget: float) -> list[list[int]]:
    """Which recordings are encoded together: sorted by length, longest first, to keep padding small.

    Args:
        seconds: length of each recording.
        budget: of a batch, in padded seconds (its recordings times its longest); one alone may exceed it.

    Returns:
        lists of positions in `seconds`, every position once.
    """
    order = sorted(range(len(seconds)), key=lambda index: (-seconds[index], index))
    batches: list[list[int]] = []
    longest = 0.0
    for index in order:
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = seconds[index]
    return batches


def assumed_seconds(utterance: Utterance) -> float:
    """Seconds of an utterance for planning: as the manifest says, else an assumption."""
    return utterance.duration if utterance.duration is not None else ASSUMED_SECONDS
