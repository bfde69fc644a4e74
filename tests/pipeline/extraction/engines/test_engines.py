"""The table of engines: one entry for each that the command line offers, and what each decides."""

from __future__ import annotations

from typing import get_args

import pytest

from sm_pipeline.config import Engine
from sm_pipeline.extraction.engines import ENGINES, local
from sm_pipeline.extraction.plan import WorkUnit
from sm_store.errors import ConfigError

UNITS = [WorkUnit(shard, shard, shard + 1, 1.0) for shard in range(5)]


def test_there_is_an_entry_for_every_engine_of_the_command_line():
    assert set(ENGINES) == set(get_args(Engine))


def test_local_runs_every_unit_where_it_is_told(monkeypatch):
    engine = ENGINES["local"]
    assert engine.share(UNITS) == UNITS
    assert engine.device("cpu") == "cpu"
    assert engine.workers("cpu", 1.0) == 1


def test_slurm_runs_its_share_by_local_workers(monkeypatch):
    engine = ENGINES["slurm"]
    for name in ("ID", "MIN", "MAX", "COUNT"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    with pytest.raises(ConfigError, match="no task of an array job"):
        engine.share([])
    for name, value in (("ID", "1"), ("MIN", "0"), ("MAX", "1"), ("COUNT", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert [unit.shard for unit in engine.share(UNITS)] == [1, 3]
    assert engine.run_units is local.run_units
