"""The Slurm engine: each task of an array job takes its share of the units and runs it with the local engine.

    sbatch --array=0-15 jobs/slurm/extract.sbatch corpus.jsonl --store corpus.store --llm ...
    SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=16        units 3, 19, 35, ...

The share follows from the array alone, so tasks need not communicate, and no two make the same shard. A job that is
submitted again, with the same number of tasks or another, makes what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from sm_store.errors import ConfigError

PREFIX = "SLURM_ARRAY_TASK_"

T = TypeVar("T")


def array_share(units: Sequence[T], environment: Mapping[str, str]) -> list[T]:
    """Every n-th unit, by this task's place in its array of n.

    Raises:
        ConfigError: this is no task of an array job, or its array has gaps, so that units would be left out.
    """
    try:
        task, first, last, count = (int(environment[PREFIX + name]) for name in ("ID", "MIN", "MAX", "COUNT"))
    except KeyError as missing:
        raise ConfigError(
            f"--engine slurm: no {missing.args[0]}: this is no task of an array job; submit it with "
            "`sbatch --array=0-15 jobs/slurm/extract.sbatch ...`, or use --engine local"
        ) from None
    except ValueError as error:
        raise ConfigError(f"--engine slurm: {PREFIX}*: {error}; they are set by Slurm") from None
    if last - first + 1 != count or not first <= task <= last:
        raise ConfigError(
            f"--engine slurm: the array {first} to {last} has {count} tasks; give a range without gaps or steps, "
            f"like --array=0-{max(count - 1, 0)}: done units are skipped"
        )
    return list(units[task - first :: count])
