"""A sweep of stage 2: one LLM, one read of the store, and each run to the bit what it is alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sm_store import Store
from sm_store.errors import ConfigError, IdentityMismatch, ModelError
from speechmapper.config_file import to_plain, to_yaml
from speechmapper.saved_projector import load_projector
from speechmapper.train import stage2 as stage2_module
from speechmapper.train.cli import app
from speechmapper.train.log import read_metrics, rounded
from speechmapper.train.run import Run
from speechmapper.train.stage2 import Stage2Request, train_stage2
from speechmapper.train.sweep import SweepRequest
from speechmapper.train.sweep_stage2 import sweep_stage2
from speechmapper.train.vary import parse_axes, stage2_variants
from tests.speechmapper.tiny import distance, make_world, stage2_config

ROOT = Path(__file__).parents[3]
SIGMAS = (0.0, 0.9, 1.0)
SETTINGS = {"run": {"eval_utterances": 3}, "optimizer": {"lr": 1e-3}}


def sweep(world, stage1_run, out, *vary, llm=None, resume=False, **sections):
    config = stage2_config(**{**SETTINGS, **sections})
    variants = stage2_variants([("config", to_plain(config))], parse_axes(vary))
    request = SweepRequest(world.path, out, variants, resume=resume, llm=str(llm or world.llm_folder))
    return sweep_stage2(request, stage1_run)


def alone(world, stage1_run, out, **sections):
    config = stage2_config(**{**SETTINGS, **sections})
    return train_stage2(Stage2Request(world.path, stage1_run, str(world.llm_folder), out, config))


def same(one, other) -> bool:
    first, second = (load_projector(run).state_dict() for run in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def of_sigmas(*sigmas):
    return f"tuning.sigma={','.join(map(str, sigmas))}"


def test_each_run_is_to_the_bit_what_it_is_alone_and_the_llm_is_loaded_once(world, stage1_run, tmp_path, monkeypatch):
    reads, loads, read, load = [], [], Store.read, stage2_module.load_llm

    def counting(self, indices, *rest, **more):
        reads.append(tuple(indices))
        return read(self, indices, *rest, **more)

    monkeypatch.setattr(Store, "read", counting)
    monkeypatch.setattr(stage2_module, "load_llm", lambda *given: loads.append(1) or load(*given))
    rows = sweep(world, stage1_run, tmp_path / "runs", of_sigmas(*SIGMAS))
    assert len(loads) == 1
    assert len(reads) - len(SIGMAS) == 3 * 2  # steps of two micro-batches; each run validates in one batch
    assert [row["run"] for row in rows] == ["sigma-0", "sigma-0.9", "sigma-1"]
    for sigma, row in zip(SIGMAS, rows, strict=True):
        outcome = alone(world, stage1_run, tmp_path / row["run"], tuning={"sigma": sigma})
        assert same(tmp_path / row["run"], tmp_path / "runs" / row["run"])
        assert row["figures"] == {name: rounded(value) for name, value in outcome.figures.items()}
        assert {"dev_wer", "dev_ce", "dev_unseen_wording_wer", "dev_relative_mse"} <= set(row["figures"])
        assert row["settings"] == {"tuning.sigma": sigma}
    assert json.loads((tmp_path / "runs" / "sweep.json").read_text()) == json.loads(json.dumps(rows))
    assert not same(tmp_path / "sigma-0", tmp_path / "sigma-1")


def test_heads_objectives_and_seeds_are_varied(world, stage1_run, tmp_path):
    rows = sweep(
        world,
        stage1_run,
        tmp_path,
        "tuning.head=vectors,rows",
        "objective.name=auto,mse+cosine",
        "seed=1,2",
        schedule={"steps": 1},
    )
    assert len(rows) == 8 and all(row["finished"] for row in rows)
    assert load_projector(tmp_path / "head-rows_name-auto_seed-1").config.head == "rows"
    alone(world, stage1_run, tmp_path / "alone", tuning={"head": "rows"}, seed=2, schedule={"steps": 1})
    assert same(tmp_path / "alone", tmp_path / "head-rows_name-auto_seed-2")


def test_a_stopped_sweep_continues(world, stage1_run, tmp_path, monkeypatch):
    whole = sweep(world, stage1_run, tmp_path / "whole", of_sigmas(0, 0.9))
    train_step = Run.train_step

    def stopping(self, ready, stop_requested):
        if ready.step == 0:
            os.kill(os.getpid(), 15)
        return train_step(self, ready, stop_requested)

    monkeypatch.setattr(Run, "train_step", stopping)
    rows = sweep(world, stage1_run, tmp_path / "parts", of_sigmas(0, 0.9))
    assert not any(row["finished"] for row in rows)
    monkeypatch.undo()
    rows = sweep(world, stage1_run, tmp_path / "parts", of_sigmas(0, 0.9), resume=True)
    assert [row["figures"] for row in rows] == [row["figures"] for row in whole]
    for row in rows:
        assert same(tmp_path / "parts" / row["run"], tmp_path / "whole" / row["run"])
    again = sweep(world, stage1_run, tmp_path / "parts", of_sigmas(0, 0.9), resume=True)
    assert [row["seconds"] for row in again] == [row["seconds"] for row in rows]  # nothing was trained again


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        (["tuning.sigma=0,2"], "run of --vary tuning.sigma=2: .*sigma 2"),
        (["tuning.head=vectors,cif"], 'run of --vary tuning.head="cif": .*this projector can have'),
        (["tuning.task=asr,st"], 'run of --vary tuning.task="st": tuning.task st: no utterance'),
        (["data.frames=200,3"], "nothing to train on"),
        (["tuning.llm_dtype=float32,bfloat16"], "--vary tuning.llm_dtype: all runs of one process share it"),
        (["llm.attention=eager,sdpa"], "--vary llm.attention: all runs of one process share it"),
    ],
)
def test_every_value_is_checked_before_the_llm_is_loaded(world, stage1_run, tmp_path, monkeypatch, vary, words):
    monkeypatch.setattr(stage2_module, "load_llm", lambda *_: pytest.fail("the LLM was loaded"))
    with pytest.raises(ConfigError, match=words):
        sweep(world, stage1_run, tmp_path / "out", *vary)
    assert not (tmp_path / "out").exists()


def test_the_llm_and_the_folders_are_checked_before_anything_is_trained(world, stage1_run, tmp_path):
    with pytest.raises(ModelError, match="no such preset or folder"):
        sweep(world, stage1_run, tmp_path / "out", of_sigmas(0, 1), llm="none")
    other = make_world(tmp_path / "world", llm_seed=4)
    with pytest.raises(ModelError, match="not those of target set tiny"):
        sweep(world, stage1_run, tmp_path / "out", of_sigmas(0, 1), llm=other.llm_folder)
    assert not (tmp_path / "out").exists()
    alone(world, stage1_run, tmp_path / "out" / "sigma-1", tuning={"sigma": 1.0}, seed=7, schedule={"steps": 1})
    with pytest.raises(ConfigError, match="sigma-1: a run is there; continue it with --resume"):
        sweep(world, stage1_run, tmp_path / "out", of_sigmas(0, 1))
    with pytest.raises(IdentityMismatch, match=r"data\.seed: 7 != 1"):
        sweep(world, stage1_run, tmp_path / "out", of_sigmas(0, 1), resume=True)


def test_the_rate_of_cross_entropy_alone_is_that_of_its_variant(tmp_path):
    variants = stage2_variants([], parse_axes(["tuning.sigma=0,0.9"]))
    assert [variant.config.optimizer.lr for variant in variants] == [1e-4, 5e-5]


def test_the_command_prints_a_table(stage1_run, world, tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml("stage2", stage2_config(**SETTINGS, schedule={"steps": 1})))
    flags = ["--store", world.path, "--projector", stage1_run, "--llm", world.llm_folder, "--out", tmp_path / "runs"]
    line = ["sweep", "stage2", *map(str, flags), "--config", str(tmp_path / "config.yaml"), "--sigma", "0,0.9"]
    done = CliRunner().invoke(app, [*line, "--task", "asr"])
    assert done.exit_code == 0, done.output
    head = done.stdout.splitlines()[0].split()
    assert head == [*("run", "steps", "dev_wer", "dev_unseen_wording_wer", "dev_relative_mse", "parameters", "seconds")]
    assert "sigma-0.9" in done.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"sigma-0", "sigma-0.9", "sweep.json"}
    assert [line["step"] for line in read_metrics(tmp_path / "runs" / "sigma-0")] == [1, 1]
    bad = CliRunner().invoke(app, ["sweep", "stage2", *map(str, flags), "--sigma", "0,x"])
    assert bad.exit_code == 2 and "separated by commas" in bad.output


def test_two_processes_train_the_same_runs(world, stage1_run, tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml("stage2", stage2_config(**SETTINGS, schedule={"steps": 2})))
    flags = ["--store", world.path, "--projector", stage1_run, "--llm", world.llm_folder, "--json", "--sigma", "0,0.9"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD"))}
    ended = {}
    for processes in (1, 2):
        more = ["--config", tmp_path / "config.yaml", "--out", tmp_path / str(processes), "--processes", processes]
        line = [sys.executable, "-m", "speechmapper.train.cli", "sweep", "stage2", *flags, *more]
        done = subprocess.run(list(map(str, line)), cwd=ROOT, capture_output=True, text=True, env=kept, timeout=200)
        assert done.returncode == 0, done.stderr
        ended[processes] = json.loads(done.stdout)["runs"]
    for one, two in zip(ended[1], ended[2], strict=True):
        assert distance(tmp_path / "1" / one["run"], tmp_path / "2" / two["run"]) < 1e-4
        assert set(one["figures"]) == set(two["figures"])
