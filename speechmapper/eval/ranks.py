"""An evaluation in several processes: each takes every n-th batch, and the main one writes what all have found.

    with joined_ranks() as ranks:                  one process, unless a launcher has started several
        source.batches(numbers, ranks.share)       process 1 of 3: batches 1, 4, 7, ...
        for found in ranks.each(lines):            what every process has found in this round
            log.append(found)

The batches are those of one process, so the predictions are too. Objects are exchanged by torch.distributed over gloo,
on any device; `--processes N` (speechmapper/launch.py), `accelerate launch` and torchrun start the processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

PATIENCE = timedelta(days=1)  # a process may wait long for another's answers; one that died ends the others
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all of an evaluation.

    Attributes:
        rank: its number. count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Its part of a list of batches."""
        return slice(self.rank, None, self.count)

    def each(self, value: Found) -> list[Found]:
        """What every process gives here, by rank; all of them have to call it as often."""
        if self.count == 1:
            return [value]
        from torch.distributed import all_gather_object

        values: list[Found | None] = [None] * self.count
        all_gather_object(values, value)
        return [each for each in values if each is not None]

    def of_main(self, value: Found) -> Found:
        """What the main process gives here, in every process."""
        return self.each(value)[0]

    def device(self, device: str) -> str:
        """Where this process runs its models: with several GPUs, `auto` is one of its own."""
        if self.count > 1 and device == "auto":
            import torch

            if torch.cuda.is_available():
                return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
        return device


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The processes that the launcher has started, joined while the block runs; without a launcher this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
