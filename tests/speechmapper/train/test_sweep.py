"""A sweep: one read of the store, and each run to the bit what it is alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sm_store import Store
from sm_store.errors import ConfigError, IdentityMismatch, ModelError, RunFailed
from speechmapper.config_file import to_plain, to_yaml
from speechmapper.loader.prefetch import Source, StepReader
from speechmapper.projector import Projector
from speechmapper.train import llm_read
from speechmapper.train.cli import app
from speechmapper.train.log import read_metrics, rounded
from speechmapper.train.run import Run
from speechmapper.train.stage import ObjectiveStage
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.sweep import SweepRequest, require_success, sweep_stage1
from speechmapper.train.vary import parse_axes, stage1_variants
from tests.speechmapper.tiny import distance, make_world, save_llm, stage1_config

ROOT = Path(__file__).parents[3]
ALPHAS = (5.0, 7.0, 9.0)


def with_alpha(config, alpha):
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, alpha=alpha))


def variants_of(config, *vary):
    return stage1_variants([("config", to_plain(config))], parse_axes(vary))


def sweep(world, out, config, *vary, **more):
    """Train the variants of a configuration."""
    return sweep_stage1(SweepRequest(world.path, out, variants_of(config, *vary), **more))


def of_alphas(*alphas):
    return f"objective.alpha={','.join(map(str, alphas))}"


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
    rows = sweep(world, tmp_path, config, of_alphas(*ALPHAS))
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
    rows = sweep(world, tmp_path, config, of_alphas(*ALPHAS))
    assert [row["finished"] for row in rows] == [False] * 3
    monkeypatch.undo()
    rows = sweep(world, tmp_path, config, of_alphas(*ALPHAS), resume=True)
    assert [(row["finished"], row["step"]) for row in rows] == [(True, 8)] * 3
    assert all(same(tmp_path / f"alpha-{alpha:g}", singles / f"alpha-{alpha:g}") for alpha in ALPHAS)


def test_runs_that_are_at_different_steps_meet_again(world, config, singles, tmp_path):
    """One run lost its newest checkpoints: the others wait for it, and nothing changes."""
    sweep(world, tmp_path, config, of_alphas(*ALPHAS))
    for name in ("step-00000006", "step-00000008"):
        folder = tmp_path / "alpha-7" / "checkpoints" / name
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    sweep(world, tmp_path, config, of_alphas(*ALPHAS), resume=True)
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
    rows = sweep(world, tmp_path, config, of_alphas(5, 7))
    assert [(row["finished"], row["step"]) for row in rows] == [(True, 3), (False, 7)]
    monkeypatch.undo()
    started = []
    steps = StepReader.steps

    def noting(self, start, end):
        started.append((start, end))
        return steps(self, start, end)

    monkeypatch.setattr(StepReader, "steps", noting)
    rows = sweep(world, tmp_path, config, of_alphas(5, 7), resume=True)
    assert [(row["finished"], row["step"]) for row in rows] == [(True, 3), (True, 8)]
    sweep(world, tmp_path, config, of_alphas(5, 7), resume=True)
    assert started == [(7, 8)]  # all finished: nothing is opened again


@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ((), "give at least one value"),
        ((5.0, 5.0), "different"),
        ((5.0, 5.0000001), "they name the run folders"),
        ((5.0, 12.0), "12"),
    ],
)
def test_impossible_alphas_are_refused(world, config, tmp_path, alphas, words):
    with pytest.raises(ConfigError, match=words):
        sweep(world, tmp_path, config, of_alphas(*alphas))


def test_trackers_that_support_one_run_per_process_are_refused(world, config, tmp_path):
    run = dataclasses.replace(config.run, trackers=("tensorboard", "mlflow"))
    config = dataclasses.replace(config, run=run)
    with pytest.raises(ConfigError, match=r"run.trackers mlflow: one run per process, and this process trains 2"):
        sweep(world, tmp_path / "out", config, of_alphas(5, 7))
    assert not (tmp_path / "out").exists()


def test_the_command_prints_a_table(world, tmp_path, singles):
    flags = ["--store", str(world.path), "--out", str(tmp_path), "--config", str(singles / "alpha-5" / "config.yaml")]
    done = CliRunner().invoke(app, ["sweep", "stage1", *flags, "--alpha", "5,7", "--set", "schedule.steps=3"])
    assert done.exit_code == 0, done.output
    assert "alpha-5" in done.stdout and "dev_relative_mse" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"alpha-5", "alpha-7", "sweep.json"}
    bad = CliRunner().invoke(app, ["sweep", "stage1", *flags, "--alpha", "5,x"])
    assert bad.exit_code == 2 and "separated by commas" in bad.output


SMALL = {"schedule": {"steps": 3, "warmup": 0}, "run": {"eval_utterances": 3}}


@pytest.fixture
def small():
    return stage1_config(**SMALL)


def count_reads(monkeypatch):
    """Counts the batches that are read for training: by the thread that reads ahead."""
    reads = []
    read = Source.read

    def counting(self, indices, pin=False):
        if threading.current_thread().name == "step-reader":
            reads.append(tuple(indices))
        return read(self, indices, pin)

    monkeypatch.setattr(Source, "read", counting)
    return reads


def test_runs_over_rate_and_seed_are_what_they_are_alone_and_each_seed_is_read_once(
    world, small, tmp_path, monkeypatch, capfd
):
    reads = count_reads(monkeypatch)
    rows = sweep(world, tmp_path, small, "optimizer.lr=1e-3,5e-3", "seed=1,2")
    assert len(reads) == 2 * small.schedule.steps
    assert [row["run"] for row in rows] == ["lr-0.001_seed-1", "lr-0.001_seed-2", "lr-0.005_seed-1", "lr-0.005_seed-2"]
    printed = capfd.readouterr().err
    assert "stage 1, group 1 of 2 (seed=1): " in printed and "stage 1, group 2 of 2 (seed=2): " in printed
    for rate, seed in ((1e-3, 2), (5e-3, 1)):
        alone = stage1_config(**SMALL, optimizer={"lr": rate}, seed=seed)
        single = tmp_path / "alone" / str(seed)
        outcome = train_stage1(Stage1Request(world.path, single, alone))
        name = f"lr-{rate:g}_seed-{seed}"
        assert same(tmp_path / name, single)
        row = next(row for row in rows if row["run"] == name)
        assert row["figures"] == {name: rounded(value) for name, value in outcome.figures.items()}
        assert row["settings"] == {"optimizer.lr": rate, "seed": seed}
        assert row["parameters"] == sum(tensor.numel() for tensor in weights(single).values())
        assert row["seconds"] > 0


def test_runs_of_different_models_share_reads_unless_their_geometry_differs(world, small, tmp_path, monkeypatch):
    reads = count_reads(monkeypatch)
    rows = sweep(
        world,
        tmp_path / "sizes",
        small,
        "model.ffn_size=32,48",
        "objective.name=mse,ctc-embedding",
        "run.log_every=1,2",
    )
    assert len(reads) == small.schedule.steps and len(rows) == 8
    assert rows[0]["parameters"] < rows[-1]["parameters"]
    reads.clear()
    sweep(world, tmp_path / "strides", small, "model.strides=[2,2],[2,1]")
    assert len(reads) == 2 * small.schedule.steps
    single = stage1_config(**SMALL, model={"strides": [2, 1]})
    train_stage1(Stage1Request(world.path, tmp_path / "alone", single))
    assert same(tmp_path / "strides" / "strides-2x1", tmp_path / "alone")


def test_a_sweep_that_was_stopped_in_its_second_group_continues_there(world, small, tmp_path, monkeypatch, capfd):
    whole = sweep(world, tmp_path / "whole", small, "seed=1,2,3")
    train_step = Run.train_step

    def stopping(self, ready, stop_requested):
        if self._config.seed == 2 and ready.step == 0:
            os.kill(os.getpid(), 15)
        return train_step(self, ready, stop_requested)

    monkeypatch.setattr(Run, "train_step", stopping)
    rows = sweep(world, tmp_path / "run", small, "seed=1,2,3")
    assert [(row["step"], row["finished"]) for row in rows] == [(3, True), (2, False), (0, False)]
    assert "--resume" in rows[2]["ended"]
    assert json.loads((tmp_path / "run" / "sweep.json").read_text()) == rows
    monkeypatch.undo()
    reads = count_reads(monkeypatch)
    capfd.readouterr()
    resumed = sweep(world, tmp_path / "run", small, "seed=1,2,3", resume=True)
    assert "group 1 of 3 (seed=1): its run was finished before; not trained again" in capfd.readouterr().err
    assert len(reads) == 1 + 3
    assert all(same(tmp_path / "run" / f"seed-{seed}", tmp_path / "whole" / f"seed-{seed}") for seed in (1, 2, 3))
    assert resumed[0] == rows[0]
    for row, expected in zip(resumed, whole, strict=True):
        assert row["figures"] == expected["figures"]
        assert row["seconds"] > 0


def test_a_stop_at_the_last_step_of_a_group_is_not_lost(world, small, tmp_path, monkeypatch):
    after_step = Run.after_step

    def stopping(self, stop):
        after_step(self, stop)
        if self.step == 3:
            os.kill(os.getpid(), 15)

    monkeypatch.setattr(Run, "after_step", stopping)
    rows = sweep(world, tmp_path, small, "seed=1,2", llm=str(world.llm_folder))
    assert [(row["step"], row["finished"]) for row in rows] == [(3, True), (0, False)]
    assert not any("dev_llm_wer" in row["figures"] for row in rows)


def test_a_run_without_its_projector_is_not_finished(world, small, tmp_path, monkeypatch):
    """Killed after its last checkpoint."""
    sweep(world, tmp_path, small, "seed=1,2")
    shutil.rmtree(tmp_path / "seed-2" / "projector")
    reads = count_reads(monkeypatch)
    rows = sweep(world, tmp_path, small, "seed=1,2", resume=True)
    assert reads == [] and [row["finished"] for row in rows] == [True, True]
    assert weights(tmp_path / "seed-2")


@pytest.mark.parametrize(
    ("vary", "sections", "words"),
    [
        (["objective.alpha=5,12"], {}, "run of --vary objective.alpha=12.0: .*alpha 12"),
        (["objective.name=mse,mae"], {}, 'run of --vary objective.name="mae": objective.name .mae'),
        (["seed=1,2", "model.num_heads=4,5"], {}, "run of --vary seed=1 --vary model.num_heads=5: .*num_heads 5"),
        (["model.strides=[2,2],[0,1]"], {}, r"run of --vary model.strides=\[0, 1\]: .*strides"),
        (["data.frames=200,3"], {}, "nothing to train on"),
        (["data.micro_batches=1,500"], {}, r"run of --vary data.micro_batches=500: .*lower data\.micro_batches"),
        (["run.trackers=[],[mlflow]", "seed=1,2"], {}, "run.trackers mlflow: one run per process"),
        (["run.trackers=[mlflow]", "seed=1,2"], {}, "run.trackers: mlflow is not installed"),
        (["run.eet=null,none"], {}, "none"),
        (["seed=1,2"], {"run": {"precision": "fp16"}}, "fp16 needs a GPU"),
    ],
)
def test_every_value_is_checked_before_anything_is_trained(world, tmp_path, vary, sections, words):
    config = stage1_config(schedule={"steps": 3, "warmup": 0}, **sections)
    with pytest.raises(ConfigError, match=words) as caught:
        sweep(world, tmp_path / "out", config, *vary)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_folders_and_identities_are_checked_before_anything_is_trained(world, small, tmp_path, monkeypatch):
    train_stage1(Stage1Request(world.path, tmp_path / "seed-2", dataclasses.replace(small, seed=7)))
    reads = count_reads(monkeypatch)
    with pytest.raises(ConfigError, match="seed-2: a run is there; continue it with --resume"):
        sweep(world, tmp_path, small, "seed=1,2")
    with pytest.raises(IdentityMismatch, match=r"data\.seed: 7 != 2"):
        sweep(world, tmp_path, small, "seed=1,2", resume=True)
    assert reads == []


def test_a_run_that_fails_does_not_end_the_others(world, tmp_path, monkeypatch):
    config = stage1_config(schedule={"steps": 8, "warmup": 2}, run={"eval_utterances": 3, "max_skipped": 2})
    sums = ObjectiveStage.sums

    def poisoned(self, model, batch):
        parts = sums(self, model, batch)
        return {name: value * float("nan") if poison(self, batch) else value for name, value in parts.items()}

    def poison(stage, batch):
        return batch.micro >= 2 and "l1" in stage._objective.parts

    monkeypatch.setattr(ObjectiveStage, "sums", poisoned)
    vary = ("objective.name=mse,l1", "seed=1,2")
    rows = sweep(world, tmp_path / "run", config, *vary, llm=str(world.llm_folder))
    assert [(row["run"], row["step"], row["finished"]) for row in rows] == [
        ("name-mse_seed-1", 8, True),
        ("name-mse_seed-2", 8, True),
        ("name-l1_seed-1", 3, False),
        ("name-l1_seed-2", 3, False),
    ]
    assert "2 steps in a row with a non-finite gradient, the last is step 4" in rows[2]["ended"]
    assert ["dev_llm_wer" in row["figures"] for row in rows] == [True, True, False, False]
    with pytest.raises(
        RunFailed, match=r"2 of 4 runs failed, see `ended` in sweep.json: name-l1_seed-1, name-l1_seed-2"
    ):
        require_success(rows)
    monkeypatch.undo()
    rows = sweep(world, tmp_path / "run", config, *vary, resume=True)
    assert all(row["finished"] for row in rows)
    require_success(rows)
    train_stage1(Stage1Request(world.path, tmp_path / "alone", variants_of(config, *vary)[0].config))
    assert same(tmp_path / "alone", tmp_path / "run" / "name-mse_seed-1")


def test_an_llm_reads_every_run_once_it_is_trained(world, small, tmp_path, monkeypatch):
    loads = []
    load = llm_read.load_llm
    monkeypatch.setattr(llm_read, "load_llm", lambda *given, **more: loads.append(given) or load(*given, **more))
    rows = sweep(world, tmp_path, small, "seed=1,2", "objective.name=mse,ctc-embedding", llm=str(world.llm_folder))
    assert len(loads) == 1
    assert all(row["figures"]["dev_llm_wer"] >= 0 for row in rows)
    assert json.loads((tmp_path / "sweep.json").read_text()) == rows
    monkeypatch.setattr(llm_read, "load_reader", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        sweep(world, tmp_path / "more", small, "seed=1,2", llm=str(world.llm_folder))
    kept = json.loads((tmp_path / "more" / "sweep.json").read_text())
    assert [row["finished"] for row in kept] == [True, True]


def broken(*_given):
    raise RuntimeError("no memory")


def test_an_llm_that_cannot_read_the_runs_is_refused_before_anything_is_trained(world, small, tmp_path):
    out = tmp_path / "out"
    other = save_llm(tmp_path / "other", seed=3)
    with pytest.raises(ModelError, match="its input embeddings are not those of target set tiny"):
        sweep(world, out, small, "seed=1,2", llm=str(other))
    with pytest.raises(ModelError, match="no such preset or folder"):
        sweep(world, out, small, "seed=1,2", llm="none")
    with pytest.raises(ConfigError, match=r"--llm .*: nothing to read: it reads run\.eval_utterances \(0\)"):
        sweep(world, out, small, "run.eval_utterances=3,0", llm=str(world.llm_folder))
    whole = make_world(tmp_path / "world", utterances=12, splits=(None,))
    with pytest.raises(ConfigError, match="of the dev split, which has 0"):
        sweep(whole, out, small, "seed=1,2", llm=str(whole.llm_folder))
    assert not out.exists()


def test_without_an_llm_no_llm_code_is_loaded(world, tmp_path):
    code = """
import json, sys
from speechmapper.train.cli import app
app(sys.argv[1:], standalone_mode=False)
assert not [name for name in sys.modules if name in ("speechmapper.llm", "speechmapper.prompting")]
"""
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml("stage1", stage1_config(schedule={"steps": 1, "warmup": 0})))
    flags = ["--store", world.path, "--out", tmp_path / "out", "--config", file, "--vary", "seed=1,2", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "stage1", *map(str, flags)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert [row["run"] for row in json.loads(done.stdout)["runs"]] == ["seed-1", "seed-2"]


def test_groups_follow_each_other_in_several_processes(world, tmp_path):
    sections = {"data": {"frames": 150, "max_utterances": 3, "micro_batches": 4}, **SMALL}
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml("stage1", stage1_config(**sections, optimizer={"lr": 1e-3})))
    flags = ["--store", world.path, "--config", file, "--vary", "seed=1,2", "--llm", world.llm_folder, "--json"]
    ended = {}
    for processes in (1, 2):
        more = ["--out", tmp_path / str(processes), "--processes", processes]
        line = [sys.executable, "-m", "speechmapper.train.cli", "sweep", "stage1", *flags, *more]
        done = subprocess.run(list(map(str, line)), capture_output=True, text=True, cwd=ROOT, timeout=200)
        assert done.returncode == 0, done.stderr
        ended[processes] = json.loads(done.stdout)["runs"]
        assert done.stderr.count("group 2 of 2 (seed=2): ") == 1
    for one, two in zip(ended[1], ended[2], strict=True):
        assert distance(tmp_path / "1" / one["run"], tmp_path / "2" / two["run"]) < 1e-6
        assert one["figures"]["dev_llm_wer"] == two["figures"]["dev_llm_wer"]
