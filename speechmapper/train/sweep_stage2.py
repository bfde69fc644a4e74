"""Several variants of stage 2 that share one LLM and what they read: `sm-train sweep stage2`.

    sm-train sweep stage2 --sigma 0,0.9 --vary seed=1,2 --store S --projector RUN --llm L --out OUT
    OUT/sigma-0_seed-1/ ...     run folders, each as `sm-train stage2` would make it
    OUT/sweep.json              the last figures of each (sweep.py)

The LLM is loaded once. The projectors of a group (same data settings, seed and steps) take their steps on each batch
one after the other, so that the LLM's activations are in memory for one of them at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator

from sm_pipeline.models.source import resolve_model
from speechmapper.config import Stage2Config
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import check_llm
from speechmapper.loader.data import TrainingData
from speechmapper.saved_projector import load_projector
from speechmapper.train.run import Outcome
from speechmapper.train.stage2 import (
    Plan,
    Stage2Request,
    identity_of,
    load_llm_of,
    open_stage2_data,
    plan_run,
    train_runs,
)
from speechmapper.train.sweep import Checked, SweepRequest, open_for, sweep
from speechmapper.train.vary import Variant


class Stage2Sweep:
    """`SweepStage` of stage 2; keeps the LLM and the plans of the runs that are checked and not trained yet."""

    name = "stage 2"

    def __init__(self, request: SweepRequest, projector: Path) -> None:
        self._request, self._projector = request, projector
        check_llm(str(request.llm))  # before its weights are fetched
        self._source = resolve_model(str(request.llm), "llm")
        self._plans: dict[Path, Plan] = {}
        self._llm: FrozenLLM | None = None

    def batches_of(self, config: Any) -> Hashable:
        return config.data, config.seed, config.schedule.steps

    def read(self, config: Any) -> TrainingData:
        return open_stage2_data(self._request_of(self._request.out, config), load_projector(self._projector))

    def check(self, variant: Variant, data: TrainingData) -> Checked:
        out = self._request.folder(variant)
        plan = plan_run(self._request_of(out, cast(Stage2Config, variant.config)), data)
        self._plans[out] = plan
        return Checked(plan.config, lambda accelerator: identity_of(plan, self._load_llm(plan, accelerator)))

    def train(self, name: str, group: Sequence[Variant]) -> tuple[list[Outcome], bool]:
        plans = {out: self._plans.pop(out) for out in map(self._request.folder, group)}
        return train_runs(name, plans, cast(FrozenLLM, self._llm), self._request.resume, in_sweep=True)

    def _load_llm(self, plan: Plan, accelerator: Accelerator) -> FrozenLLM:
        """The LLM, loaded for the first identity that is asked for."""
        if self._llm is None:
            self._llm = load_llm_of(plan, self._source, accelerator)
        return self._llm

    def _request_of(self, out: Path, config: Stage2Config) -> Stage2Request:
        given = self._request
        return Stage2Request(given.store, self._projector, str(given.llm), out, config, given.target, given.split)


def sweep_stage2(request: SweepRequest, projector: Path) -> list[dict[str, Any]]:
    """Train one run per variant; returns the rows of the table, in the order of the variants.

    Args:
        request: with the LLM to train with. projector: run folder that all start from.

    Raises:
        ConfigError: a variant that cannot be trained, or several in one group with a tracker that supports only one
            run per process. ModelError, IdentityMismatch: as `train_stage2`.
    """
    stage = Stage2Sweep(request, projector)
    return sweep(request, stage, open_for(request, stage))[0]
