"""Stage 1 besides the paper's recipe: objectives, shapes, averages, compilation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.config_file import to_yaml
from speechmapper.eval.predict import PredictRequest
from speechmapper.eval.score import evaluate
from speechmapper.projector import Projector
from speechmapper.train.checkpoint import list_checkpoints, read_checkpoint
from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, train_stage1
from tests.speechmapper.tiny import distance, stage1_config

OBJECTIVES = (
    "mse",
    "mse+cosine",
    "l1+cosine+contrastive",
    "mse+ctc",
    "mse+centered-cosine",
    "ctc-embedding",
    "ctc-embedding+commitment",
    "dtw",
    "mse+kd",
    "ctc-embedding+kd",
    "dtw+kd",
)


def train(world, out, resume: bool = False, **sections):
    return train_stage1(Stage1Request(world.path, out, stage1_config(**sections), resume=resume))


def weights(run) -> dict[str, torch.Tensor]:
    return Projector.from_pretrained(run / "projector").state_dict()


def same(one, other) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


LONGER = {
    "schedule": {"steps": 120, "warmup": 5},
    "optimizer": {"lr": 5e-3},
    "run": {"log_every": 50, "eval_utterances": 5},
    "model": {"dropout": 0.0},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_on_the_same_store(world, tmp_path, name):
    untrained = {"schedule": {"steps": 1, "warmup": 0}, "optimizer": {"lr": 1e-12}, "run": {"eval_utterances": 5}}
    train(world, tmp_path / "untrained", **untrained, objective={"name": name})
    train(world, tmp_path / "run", **LONGER, objective={"name": name})
    before, after = read_metrics(tmp_path / "untrained")[-1], read_metrics(tmp_path / "run")[-1]
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert after["dev_wer"] < 0.75 * before["dev_wer"]


@pytest.mark.parametrize("name", ["l1+cosine+contrastive+ctc", "ctc-embedding"])
def test_resumed_equals_uninterrupted_with_parameters_of_the_objectives_own(world, tmp_path, name):
    objective = {"name": name, "negatives": 5}
    train(world, tmp_path / "whole", objective=objective)
    train(world, tmp_path / "run", objective=objective, run={"save_every": 3})
    newest = list_checkpoints(tmp_path / "run")[-1]
    for path in newest.iterdir():  # back to step 6
        path.unlink()
    newest.rmdir()
    train(world, tmp_path / "run", resume=True, objective=objective, run={"save_every": 3})
    assert same(tmp_path / "run", tmp_path / "whole")


def test_only_the_projector_outlives_the_run(world, tmp_path):
    train(world, tmp_path / "run", objective={"name": "mse+ctc"}, schedule={"steps": 1, "warmup": 0})
    train(world, tmp_path / "mse", schedule={"steps": 1, "warmup": 0})
    assert weights(tmp_path / "run").keys() == weights(tmp_path / "mse").keys()
    (folder,) = list_checkpoints(tmp_path / "run")
    state = json.loads((folder / "state.json").read_text())
    names = read_checkpoint(folder, state["identity"]).model
    assert {name for name in names if not name.startswith("projector.")} == {
        "objective.parts.ctc.linear.weight",
        "objective.parts.ctc.linear.bias",
        "objective.parts.ctc.blank_E",
    }


@pytest.mark.parametrize("name", ["mse+kd", "ctc-embedding+kd"])
def test_kd_brings_the_llms_first_layers_nearer_to_the_text(world, tmp_path, capfd, name):
    model = {**LONGER["model"], "rows_temperature": 0.1}  # sharper mixtures take more steps
    settings = {**LONGER, "model": model, "run": {"log_every": 10}}
    train(world, tmp_path / "run", **settings, objective={"name": name, "kd_layers": 2, "kd_weight": 1.0})
    found = [line["kd"] for line in read_metrics(tmp_path / "run") if "kd" in line]
    assert found[-1] < 0.6 * found[0]
    assert "of an LLM its first layers alone (objective kd)" in capfd.readouterr().err
    (folder,) = list_checkpoints(tmp_path / "run")
    names = read_checkpoint(folder, json.loads((folder / "state.json").read_text())["identity"]).model
    assert all(name.startswith("projector.") for name in names)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("objective.kd_layers=3", "objective.kd_layers 3"),
        ("objective.kd_layers=0", "objective.kd_layers 0: give 1 or more"),
        ("objective.llm=/no/such/llm", "in objective.llm (--llm /no/such/llm: no such preset or folder"),
    ],
)
def test_bad_settings_of_kd_are_one_line_and_exit_code_2(world, tmp_path, setting, words):
    (tmp_path / "config.yaml").write_text(to_yaml("stage1", stage1_config(objective={"name": "mse+kd"})))
    flags = ["--store", world.path, "--out", tmp_path / "run", "--config", tmp_path / "config.yaml", "--set", setting]
    line = [sys.executable, "-m", "speechmapper.train.cli", "stage1", *map(str, flags)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_ctc_projector_is_read_as_ctc_wherever_it_is_used(world, tmp_path):
    train(world, tmp_path / "run", **LONGER, objective={"name": "ctc-embedding"})
    projector = Projector.from_pretrained(tmp_path / "run" / "projector")
    assert projector.config.readout == "ctc" and projector.blank.abs().sum() > 0
    metrics = evaluate(PredictRequest(tmp_path / "run", tmp_path / "out", world.path, split="dev"))
    assert metrics["wer"] == pytest.approx(read_metrics(tmp_path / "run")[-1]["dev_wer"], rel=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        {"strides": [1, 4]},
        {"kernel_sizes": [4, 8], "paddings": [1, 3]},
        {
            "block_sizes": [32],
            "block_outputs": [32],
            "num_layers": [2],
            "kernel_sizes": [6],
            "strides": [4],
            "paddings": [2],
        },
        {"norm_order": "post", "dropout": 0.2, "attention_dropout": 0.1},
        {"num_layers": [2, 0], "ffn_size": 16},
    ],
    ids=str,
)
def test_other_shapes_train_on_the_same_store(world, tmp_path, model):
    outcome = train(world, tmp_path / "run", model=model, run={"eval_utterances": 3})
    assert outcome.finished and outcome.figures["dev_wer"] > 0
    config = Projector.from_pretrained(tmp_path / "run" / "projector").config
    assert all(getattr(config, name) == value for name, value in model.items())
    evaluate(PredictRequest(tmp_path / "run", tmp_path / "out", world.path))


def test_a_moving_average_is_what_is_kept(world, tmp_path):
    """decay 0.5 over two steps: half of the first weights and half of the second."""
    one, two = {"schedule": {"steps": 1, "shape": "constant"}}, {"schedule": {"steps": 2, "shape": "constant"}}
    for steps, schedule in ((1, one), (2, two)):
        schedule["schedule"]["warmup"] = 0
        train(world, tmp_path / f"plain{steps}", **schedule)
    train(world, tmp_path / "average", **two, optimizer={"ema": 0.5})
    first, second, mean = (weights(tmp_path / name) for name in ("plain1", "plain2", "average"))
    for name, value in mean.items():
        assert torch.allclose(value, 0.5 * first[name] + 0.5 * second[name], atol=1e-6), name


def test_a_moving_average_survives_a_resume_to_the_bit(world, tmp_path):
    settings = {"optimizer": {"ema": 0.9}, "schedule": {"warmup": 0, "shape": "constant"}}
    train(world, tmp_path / "whole", **settings)
    settings["schedule"] = {**settings["schedule"], "steps": 3}
    train(world, tmp_path / "run", **settings)
    settings["schedule"] = {**settings["schedule"], "steps": 8}
    train(world, tmp_path / "run", resume=True, **settings)
    assert same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_learn_the_same(world, tmp_path):
    settings = {"model": {"dropout": 0.0}, "schedule": {"steps": 3, "warmup": 0}}
    train(world, tmp_path / "plain", **settings)
    train(world, tmp_path / "compiled", **settings, run={"compile": True})
    assert distance(tmp_path / "plain", tmp_path / "compiled") < 1e-4


def test_compiling_without_a_compiler_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"run\.compile needs a C\+\+ compiler"):
        train(world, tmp_path / "run", run={"compile": True})
