"""Engines: who runs the work units. Each calls the same `UnitWorker`, so each makes the same store, bit for bit.

local   processes on this machine
slurm   the share of an array job's task, by processes on its node
ray     actors of a Ray cluster
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence

from sm_pipeline.config import Engine
from sm_pipeline.extraction.engines import local, ray, slurm
from sm_pipeline.extraction.engines.local import Run
from sm_pipeline.extraction.plan import WorkUnit
from sm_pipeline.extraction.unit import Task, UnitResult

__all__ = ["Run", "run_units", "share"]


def share(engine: Engine, units: Sequence[WorkUnit]) -> list[WorkUnit]:
    """The units that this process is to have made.

    Raises:
        ConfigError: the engine is not to be had here.
    """
    return slurm.array_share(units, os.environ) if engine == "slurm" else list(units)


def run_units(engine: Engine, run: Run, tasks: Sequence[Task]) -> Generator[UnitResult]:
    """Run every task, yielding its result as it ends; closing the generator ends the workers."""
    return ray.run_units(run, tasks) if engine == "ray" else local.run_units(run, tasks)
