"""A sweep: one read of the store, and each run to the bit what it is alone."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch
from typer.testing import CliRunner

from sm_store import Store
from sm_store.errors import ConfigError
from speechmapper.loader.prefetch import StepReader
from speechmapper.projector import Projector
from speechmapper.train.cli import app
from speechmapper.train.log import read_metrics
from speechmapper.train.run import Run
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.sweep import print_rows, sweep_stage1, with_alpha
from tests.speechmapper.tiny import stage1_config

ALPHAS = (5.0, 7.0, 9.0)


def weights(run) -> dict[str, torch.Tensor]:
    return Projector.from_pretrained(run / "projector").state_dict()


def same(one, other) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def config():
    return stage1_config(run={"eval_utterances": 3, "save_every": 3})


@pytest.fixture(scope="module")
def singles(world, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("singles")
    for alpha in ALPHAS:
        train_stage1(Stage1Request(world.path, folder / f"alpha-{alpha:g}", with_alpha(config, alpha)))
    return folder


def test_each_run_is_to_the_bit_what_it_is_alone_and_the_store_is_read_once(
    world, config, singles, tmp_path, monkeypatch
):
    reads = []
    read = Store.read

    def counting(self, indices, *rest, **more):
        reads.append(tuple(indices))
        return read(self, indices, *rest, **more)

    monkeypatch.setattr(Store, "read", counting)
    rows = sweep_stage1(Stage1Request(world.path, tmp_path, config), ALPHAS)
    dev = 3  # each run validates once, in one batch
    assert len(reads) - dev == config.schedule.steps
    for alpha, row in zip(ALPHAS, rows, strict=True):
        run = f"alpha-{alpha:g}"
        assert same(tmp_path / run, singles / run)
        logged = [
            [
                {name: line[name] for name in ("step", "loss", "word", "pad") if name in line}
                for line in read_metrics(at)
            ]
            for at in (tmp_path / run, singles / run)
        ]
        assert logged[0] == logged[1]
        assert (row["run"], row["alpha"], row["step"]) == (run, alpha, 8)
        assert row["figures"]["dev_wer"] == pytest.approx(read_metrics(singles / run)[-1]["dev_wer"], rel=1e-5)
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(json.dumps(rows))
    assert not same(tmp_path / "alpha-5", tmp_path / "alpha-9")


def test_a_stopped_sweep_continues(world, config, singles, tmp_path, monkeypatch):
    train_step = Run.train_step

    def stopping(self, ready, stop_requested):
        any_stop_requested = train_step(self, ready, stop_requested)
        if ready.step == 3:
            os.kill(os.getpid(), 15)
        return any_stop_requested

    monkeypatch.setattr(Run, "train_step", stopping)
    rows = sweep_stage1(Stage1Request(world.path, tmp_path, config), ALPHAS)
    assert [row["finished"] for row in rows] == [False] * 3
    monkeypatch.undo()
    rows = sweep_stage1(Stage1Request(world.path, tmp_path, config, resume=True), ALPHAS)
    assert [(row["finished"], row["step"]) for row in rows] == [(True, 8)] * 3
    assert all(same(tmp_path / f"alpha-{alpha:g}", singles / f"alpha-{alpha:g}") for alpha in ALPHAS)


def test_runs_that_are_at_different_steps_meet_again(world, config, singles, tmp_path):
    """One run lost its newest checkpoints: the others wait for it, and nothing changes."""
    request = Stage1Request(world.path, tmp_path, config)
    sweep_stage1(request, ALPHAS)
    for name in ("step-00000006", "step-00000008"):
        folder = tmp_path / "alpha-7" / "checkpoints" / name
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    sweep_stage1(Stage1Request(world.path, tmp_path, config, resume=True), ALPHAS)
    assert all(same(tmp_path / f"alpha-{alpha:g}", singles / f"alpha-{alpha:g}") for alpha in ALPHAS)


def test_a_run_that_ended_early_is_not_waited_for(world, config, tmp_path, monkeypatch):
    """alpha 5 has a stop reason at step 3: what is read on resuming is what alpha 7 still needs."""
    after_step = Run.after_step

    def ending_early(self, stopping):
        if self._config.objective.alpha == 5 and self.step == 3:
            self.stop_reason = "good enough"
        after_step(self, stopping or self.step == 6)
        if self.step == 6:
            os.kill(os.getpid(), 15)

    monkeypatch.setattr(Run, "after_step", ending_early)
    rows = sweep_stage1(Stage1Request(world.path, tmp_path, config), [5, 7])
    assert [(row["finished"], row["step"]) for row in rows] == [(True, 3), (False, 7)]
    monkeypatch.undo()
    started = []
    steps = StepReader.steps

    def noting(self, start, end):
        started.append((start, end))
        return steps(self, start, end)

    monkeypatch.setattr(StepReader, "steps", noting)
    request = Stage1Request(world.path, tmp_path, config, resume=True)
    rows = sweep_stage1(request, [5, 7])
    assert [(row["finished"], row["step"]) for row in rows] == [(True, 3), (True, 8)]
    sweep_stage1(request, [5, 7])
    assert started == [(7, 8), (8, 8)]


@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ((), "different numbers"),
        ((5.0, 5.0), "different"),
        ((5.0, 5.0000001), "they name the run folders"),
        ((5.0, 12.0), "12"),
    ],
)
def test_impossible_alphas_are_refused(world, config, tmp_path, alphas, words):
    with pytest.raises(ConfigError, match=words):
        sweep_stage1(Stage1Request(world.path, tmp_path, config), alphas)


def test_trackers_that_support_one_run_per_process_are_refused(world, config, tmp_path):
    run = dataclasses.replace(config.run, trackers=("tensorboard", "mlflow"))
    config = dataclasses.replace(config, run=run)
    with pytest.raises(ConfigError, match=r"run.trackers mlflow: one run per process, and this process trains 2"):
        sweep_stage1(Stage1Request(world.path, tmp_path / "out", config), [5, 7])
    assert not (tmp_path / "out").exists()


def test_a_program_reads_one_object(tmp_path, capsys):
    print_rows([{"run": "alpha-5", "figures": {}}], tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path),
        "runs": [{"run": "alpha-5", "figures": {}}],
    }


def test_the_command_prints_a_table(world, tmp_path, singles):
    flags = ["--store", str(world.path), "--out", str(tmp_path), "--config", str(singles / "alpha-5" / "config.yaml")]
    done = CliRunner().invoke(app, ["sweep", "stage1", *flags, "--alpha", "5,7", "--set", "schedule.steps=3"])
    assert done.exit_code == 0, done.output
    assert "alpha-5" in done.stdout and "dev_relative_mse" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"alpha-5", "alpha-7", "sweep.json"}
    bad = CliRunner().invoke(app, ["sweep", "stage1", *flags, "--alpha", "5,x"])
    assert bad.exit_code == 2 and "separated by commas" in bad.output
