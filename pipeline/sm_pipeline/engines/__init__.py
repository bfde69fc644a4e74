"""Engines: who runs the work units. Each calls the same `UnitWorker`, so each makes the same store."""

from sm_pipeline.engines.local import run_units

__all__ = ["run_units"]
