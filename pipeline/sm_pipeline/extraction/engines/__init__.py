"""Engines: who runs the work units. Each calls the same `UnitWorker`, so each makes the same store, bit for bit.

local   processes on this machine
slurm   the share of one task of an array job, by processes on its node
ray     actors of a Ray cluster

engine = ENGINES["local"]
with closing(engine.run_units(Run(setup, workers=4), work)) as finished:
    for result in finished: ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from sm_pipeline.extraction.engines import local, ray, slurm
from sm_pipeline.extraction.engines.local import Run
from sm_pipeline.extraction.plan import WorkUnit
from sm_pipeline.extraction.unit import UnitResult, UnitWork

__all__ = ["ENGINES", "EngineFunctions", "Run"]


@dataclass(frozen=True, slots=True)
class EngineFunctions:
    """What an engine does.

    Attributes:
        device: where its workers compute, given `--device`.
        share: the units that this process has to run. Raises ConfigError where the engine is unavailable here.
        workers: how many workers are worth it, given that device and the seconds of audio to encode.
        run_units: runs every unit and yields its result as it finishes; closing the generator ends the workers.
    """

    device: Callable[[str], str]
    share: Callable[[Sequence[WorkUnit]], list[WorkUnit]]
    workers: Callable[[str, float], int]
    run_units: Callable[[Run, Sequence[UnitWork]], Generator[UnitResult]]


ENGINES: Mapping[str, EngineFunctions] = {
    "local": EngineFunctions(local.device, list, local.default_workers, local.run_units),
    "slurm": EngineFunctions(
        local.device, lambda units: slurm.array_share(units, os.environ), local.default_workers, local.run_units
    ),
    "ray": EngineFunctions(ray.device, list, lambda device, _seconds: ray.cluster_workers(device), ray.run_units),
}
