"""One run: its seeds, its average, what is left of it after a stop, and when it is finished."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict

import pytest
import torch
from accelerate import Accelerator

from sm_store.errors import ConfigError
from speechmapper.projector import Projector, ProjectorConfig
from speechmapper.train.checkpoint import list_checkpoints, load_newest
from speechmapper.train.run import compile_blocks, micro_seed
from tests.speechmapper.tiny import data_of, stage1_config
from tests.speechmapper.train.test_loop import Recording, new_run, train


def test_micro_seeds_differ_and_repeat():
    seeds = {micro_seed(seed, micro) for seed in range(10) for micro in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert micro_seed(1, 2) == micro_seed(1, 2)


def test_micro_seeds_are_those_of_earlier_releases():
    """A resumed run must draw the same numbers as the run that was stopped."""
    assert [micro_seed(1, micro) for micro in (0, 1)] == [3717377837946358015, 38901565946305238]


def test_the_average_lies_where_the_weights_do(world, tmp_path, monkeypatch):
    """Weights move to the device after they were made; double precision stands in for it here."""
    monkeypatch.setattr(Accelerator, "prepare", lambda _self, model, optimizer: (model.double(), optimizer))
    config = stage1_config(optimizer={"ema": 0.5})
    run = new_run(tmp_path, config, data_of(world, config.data), Recording())
    assert {weight.dtype for weight in run.projector.parameters()} == {torch.float64}


def test_the_outcome_before_and_after_the_last_step(world, tmp_path):
    config = stage1_config(schedule={"steps": 2, "warmup": 0})
    run = new_run(tmp_path, config, data_of(world, config.data), Recording())
    outcome = asdict(run.outcome())
    assert outcome.pop("ended") == "stopped by a signal, saved; continue with --resume"
    assert outcome == {"step": 0, "finished": False, "skipped": 0, "figures": {}, "seconds": 0.0}
    run.step = 2
    assert (run.outcome().finished, run.outcome().ended) == (True, "done")
    run.step, run.stop_reason = 1, "good enough"
    assert (run.outcome().finished, run.outcome().ended) == (True, "good enough")


def test_the_state_in_a_checkpoint_keeps_its_names(world, tmp_path):
    """Names that a checkpoint of an earlier release has: they may not change without a new format version."""
    stage = Recording()
    stage.stop_reason = "good enough"
    sections = {
        "optimizer": {"ema": 0.5},
        "run": {"eval_every": 6, "eval_utterances": 1},
        "data": {"bucket_utterances": 1},  # the epoch ends with the run
    }
    train(world, tmp_path / "run", stage=stage, **sections)
    found = load_newest(tmp_path / "run", {"made": "for this"})
    counters = dict(found.counters)
    assert counters.pop("seconds") > 0
    assert counters == {"skipped": 0, "scaler": None, "epoch_ends": [6], "enough": "good enough"}
    weights = {f"{prefix}.{name}" for prefix in ("projector", "average.module") for name in ("weight", "bias")}
    assert set(found.model) == {*weights, "average.n_averaged"}


def test_a_resumed_run_restores_weights_average_step_and_reason(world, tmp_path):
    sections = {"optimizer": {"ema": 0.9}, "run": {"save_every": 3, "keep": 9}}
    _, _, whole = train(world, tmp_path / "run", **sections)
    shutil.rmtree(list_checkpoints(tmp_path / "run")[-1])
    config = stage1_config(**sections)
    run = new_run(tmp_path / "run", config, data_of(world, config.data), Recording())
    run.resume()
    assert (run.step, run.stop_reason, run.finished) == (6, None, False)
    _, _, resumed = train(world, tmp_path / "run", resume=True, **sections)
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)


def test_a_resumed_run_restores_its_figures_and_seconds(world, tmp_path):
    sections = {"run": {"eval_every": 4, "eval_utterances": 1}}
    whole, _, _ = train(world, tmp_path / "run", **sections)
    assert whole.seconds > 0 and set(whole.figures) == {"loss", "dev_figure"}
    again, stage, _ = train(world, tmp_path / "run", resume=True, **sections)
    assert (stage.seen, again.figures) == ([], pytest.approx(whole.figures, rel=1e-5))
    assert again.seconds == pytest.approx(whole.seconds, abs=1e-3)


def test_seconds_are_of_training_steps_alone(world, tmp_path):
    class Slow(Recording):
        def sums(self, model, batch):
            time.sleep(0.05)
            return super().sums(model, batch)

        def evaluate(self, model, step):
            time.sleep(1)
            return super().evaluate(model, step)

    run = {"eval_every": 2, "eval_utterances": 1}
    outcome, _, _ = train(world, tmp_path / "run", stage=Slow(), run=run, schedule={"steps": 4, "warmup": 0})
    assert 0.2 < outcome.seconds < 1


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    sizes = ProjectorConfig(4, (4,), (4,), 4, (0,), 1, 4, (6,), (2,), (2,))
    with pytest.raises(ConfigError, match=r"run\.compile needs a C\+\+ compiler"):
        compile_blocks(Projector(sizes))
