"""Stage 1: learns, resumes to the bit, weighs positions and not batches, survives NaN, and never meets an LLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sm_store import Fields, Record
from sm_store.errors import ConfigError, IdentityMismatch, RunFailed, StoreMissing
from speechmapper.projector import Projector
from speechmapper.train.log import read_metrics
from speechmapper.train.run import Run
from speechmapper.train.stage import ObjectiveStage
from speechmapper.train.stage1 import Stage1Request, projector_config, train_stage1
from tests.speechmapper.tiny import World, data_of, make_world, stage1_config

ROOT = Path(__file__).parents[3]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Projector.from_pretrained(run / "projector").state_dict()


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def train(world: World, out: Path, resume: bool = False, **sections):
    return train_stage1(Stage1Request(world.path, out, stage1_config(**sections), resume=resume))


def test_a_run_folder_holds_what_it_should(stage1_run):
    assert {path.name for path in stage1_run.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "projector",
        "checkpoints",
        "examples.txt",
        "norms.jsonl",
    }
    assert {path.name for path in (stage1_run / "projector").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "checksums.json",
    }
    lines = read_metrics(stage1_run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    last = lines[-1]
    assert {"dev_wer", "dev_cer", "dev_mse", "dev_relative_mse", "dev_relative_mse_pad", "dev_cosine"} <= set(last)
    assert {"word", "pad", "cosine", "lr", "epoch", "data_wait", "audio_seconds_per_second", "skipped"} <= set(lines[0])
    assert "reference" in (stage1_run / "examples.txt").read_text()


def test_the_projector_says_what_it_is_for(stage1_run, world):
    made = Projector.from_pretrained(stage1_run / "projector").config.trained_for
    assert made["stage"] == "stage1"
    assert made["encoder"] == dict(world.store.identity.encoder)
    assert made["target"]["name"] == "tiny"
    assert "24" in (stage1_run / "projector" / "README.md").read_text()  # its input width


def test_it_learns(world, tmp_path):
    train(world, tmp_path / "run", schedule={"steps": 150, "warmup": 5}, optimizer={"lr": 5e-3}, run={"log_every": 30})
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < 0.6 * losses[0]


def test_zero_steps_write_the_untrained_projector(world, tmp_path):
    outcome = train(world, tmp_path / "run", schedule={"steps": 0, "warmup": 0})
    assert outcome.finished and outcome.step == 0
    config = stage1_config()
    torch.manual_seed(config.seed)
    data = data_of(world, config.data)
    fresh = Projector(projector_config(config, data)).state_dict()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_the_same_run_twice_is_the_same_to_the_bit(world, tmp_path):
    train(world, tmp_path / "one")
    train(world, tmp_path / "two")
    assert same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_equals_uninterrupted_to_the_bit(world, tmp_path, stop, monkeypatch):
    """Interrupted by a signal after `stop` steps, over an epoch's end (an epoch has 5), with dropout."""
    train(world, tmp_path / "whole")
    interrupted = tmp_path / "interrupted"
    after_step = Run.after_step
    monkeypatch.setattr(Run, "train_step", stopping_after(stop, Run.train_step))
    outcome = train(world, interrupted)
    assert (outcome.step, outcome.finished) == (stop, False)
    monkeypatch.undo()
    assert Run.after_step is after_step
    outcome = train(world, interrupted, resume=True)
    assert (outcome.step, outcome.finished) == (8, True)
    assert same(interrupted, tmp_path / "whole")
    keep = ("step", "loss", "word", "pad", "cosine", "lr", "epoch")
    logged = [
        [{name: line[name] for name in keep} for line in read_metrics(run)] for run in (interrupted, tmp_path / "whole")
    ]
    assert logged[0] == logged[1]


def stopping_after(stop: int, train_step):
    def wrapped(self, ready, stop_requested):
        stopping = train_step(self, ready, stop_requested)
        if ready.step + 1 == stop:
            os.kill(os.getpid(), 15)
        return stopping or ready.step + 1 == stop

    return wrapped


def test_a_killed_run_continues_from_its_last_checkpoint(world, tmp_path, monkeypatch):
    train(world, tmp_path / "whole", run={"save_every": 3})

    def die(self, ready, stop_requested):
        if ready.step == 4:
            raise KeyboardInterrupt
        return train_step(self, ready, stop_requested)

    train_step = Run.train_step
    monkeypatch.setattr(Run, "train_step", die)
    with pytest.raises(KeyboardInterrupt):
        train(world, tmp_path / "killed", run={"save_every": 3})
    monkeypatch.undo()
    train(world, tmp_path / "killed", resume=True, run={"save_every": 3})
    assert same(tmp_path / "killed", tmp_path / "whole")
    assert [line["step"] for line in read_metrics(tmp_path / "killed")] == list(range(1, 9))


def test_resuming_a_finished_run_changes_nothing(world, stage1_run, tmp_path):
    run = tmp_path / "run"
    train(world, run)
    before = (run / "metrics.jsonl").read_bytes(), weights(run)
    outcome = train(world, run, resume=True)
    assert outcome.finished
    assert (run / "metrics.jsonl").read_bytes() == before[0]
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in weights(run).items())


def test_resume_with_nothing_there_starts(world, tmp_path):
    assert train(world, tmp_path / "new", resume=True, schedule={"steps": 1, "warmup": 0}).finished


def test_a_run_that_is_there_is_not_overwritten(world, stage1_run):
    with pytest.raises(ConfigError, match="--resume"):
        train(world, stage1_run)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"ffn_size": 56}}, r"model\.ffn_size: 48 != 56"),
        ({"data": {"frames": 300}}, r"data\.frames: 200 != 300"),
        ({"seed": 5}, r"data\.seed: 1 != 5"),
        ({"objective": {"alpha": 7.0}}, r"objective\.alpha: 5\.0 != 7\.0"),
        ({"optimizer": {"lr": 0.5}}, r"optimizer\.lr: .* != 0\.5"),
    ],
)
def test_resume_of_another_model_data_order_or_objective_is_refused(world, tmp_path, sections, words):
    train(world, tmp_path / "run", schedule={"steps": 1, "warmup": 0})
    with pytest.raises(IdentityMismatch, match=words):
        train(world, tmp_path / "run", resume=True, **sections)


def test_resume_on_another_store_is_refused(world, tmp_path):
    train(world, tmp_path / "run", schedule={"steps": 1, "warmup": 0})
    other = make_world(tmp_path / "other", shards=3)
    with pytest.raises(IdentityMismatch, match=r"store\.plan\.shards: 2 != 3"):
        train(other, tmp_path / "run", resume=True)


def test_resume_on_a_store_that_grew_is_refused(tmp_path):
    world = make_world(tmp_path / "world", utterances=20, splits=(None,))
    train(world, tmp_path / "run", schedule={"steps": 1, "warmup": 0})
    frames = np.full((30, world.store.identity.width), 0.5, np.float16)
    world.store.commit(
        2, [Record("late", frames, Fields(text="late", duration=1.2))], [], {"tiny": [np.array([3], np.int32)]}
    )
    with pytest.raises(IdentityMismatch, match=r"data\.utterances: 20 != 21"):
        train(world, tmp_path / "run", resume=True)


def test_more_steps_may_be_added_on_resume(world, tmp_path):
    train(world, tmp_path / "run", schedule={"steps": 2, "warmup": 0})
    assert train(world, tmp_path / "run", resume=True, schedule={"steps": 4, "warmup": 0}).step == 4


def test_the_loss_is_over_the_positions_of_the_step_however_it_is_cut(world, tmp_path):
    """One micro-batch of all utterances, or many small ones of the same: same weights within rounding."""
    off = {"model": {"dropout": 0.0}, "schedule": {"steps": 3, "warmup": 0}, "optimizer": {"weight_decay": 0.0}}
    whole = {"data": {"frames": 100_000, "max_utterances": 30, "micro_batches": 1}}
    cut = {"data": {"frames": 100_000, "max_utterances": 5, "micro_batches": 6}}
    train(world, tmp_path / "whole", **off, **whole)
    train(world, tmp_path / "cut", **off, **cut)
    lines = [read_metrics(tmp_path / name) for name in ("whole", "cut")]
    assert lines[0][0]["loss"] == pytest.approx(lines[1][0]["loss"], rel=1e-5)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-4), name


def test_a_batch_that_gives_nan_costs_one_step_and_is_counted(world, tmp_path, monkeypatch):
    poison(monkeypatch, {2})
    outcome = train(world, tmp_path / "run")
    assert (outcome.finished, outcome.skipped) == (True, 1)
    lines = read_metrics(tmp_path / "run")
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    assert lines[2]["loss"] is None and lines[3]["loss"] is not None


def test_too_many_in_a_row_end_the_run(world, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(2, 100)))
    with pytest.raises(RunFailed, match="3 steps in a row with a non-finite gradient, the last is step 5"):
        train(world, tmp_path / "run", run={"max_skipped": 3})


def poison(monkeypatch, steps: set[int]) -> None:
    """Make the gradients of these steps NaN."""
    sums = ObjectiveStage.sums

    def poisoned(self, model, batch):
        parts = sums(self, model, batch)
        return {name: value * float("nan") if batch.micro in steps else value for name, value in parts.items()}

    monkeypatch.setattr(ObjectiveStage, "sums", poisoned)


def test_what_is_not_used_is_printed(tmp_path, capfd):
    world = make_world(tmp_path / "world", utterances=20)
    frames = world.store.frames[world.store.select(split="train")]
    limit = int(np.sort(frames)[-2])
    train(world, tmp_path / "run", schedule={"steps": 1, "warmup": 0}, data={"max_frames": limit, "frames": 200})
    printed = capfd.readouterr().err
    assert (
        f"{(frames <= limit).sum()} utterances of train, left out: {(frames > limit).sum()} over the frame" in printed
    )


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"objective": {"alpha": 9.5}}, "alpha 9.5"),
        ({"objective": {"name": "mae"}}, "objective.name 'mae'"),
        ({"model": {"num_heads": 5}}, "num_heads 5"),
        ({"model": {"num_layers": [1]}}, "num_layers"),
        ({"model": {"ffn_size": 0}}, "ffn_size"),
        ({"model": {"strides": [0, 4]}}, "strides"),
        ({"data": {"frames": 3}}, "nothing to train on"),
        ({"data": {"micro_batches": 500}}, r"lower data\.micro_batches"),
        ({"run": {"precision": "fp16"}}, "fp16 needs a GPU"),
        ({"run": {"trackers": ["mlflow"]}}, r"run\.trackers: mlflow is not installed; .*speechmapper\[trackers\]"),
    ],
)
def test_settings_that_do_not_fit_are_refused(world, tmp_path, sections, words):
    with pytest.raises(ConfigError, match=words) as error:
        train(world, tmp_path / "run", **sections)
    assert "\n" not in str(error.value)


def test_unknown_target_and_split(world, tmp_path):
    with pytest.raises(StoreMissing, match=r"--target other: .*store has tiny"):
        train_stage1(Stage1Request(world.path, tmp_path / "a", stage1_config(), target="other"))
    with pytest.raises(ConfigError, match=r"no split 'x' .there: dev, test, train"):
        train_stage1(Stage1Request(world.path, tmp_path / "a", stage1_config(), split="x"))


def test_without_splits_everything_is_trained_on(tmp_path, capfd):
    world = make_world(tmp_path / "world", utterances=12, splits=(None,))
    train(world, tmp_path / "run", schedule={"steps": 1, "warmup": 0}, run={"eval_utterances": 5})
    assert "12 utterances of the store" in capfd.readouterr().err
    assert not any(name.startswith("dev_") for line in read_metrics(tmp_path / "run") for name in line)


def test_table_targets_train_to_the_same_weights(world, tmp_path):
    table = make_world(tmp_path / "table", kind="table")
    train(world, tmp_path / "dense")
    train(table, tmp_path / "run")
    assert same(tmp_path / "dense", tmp_path / "run")


WATCHED = """
import json, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from speechmapper.train.cli import app
app(sys.argv[1:], standalone_mode=False)
print(json.dumps({"modules": sorted(sys.modules), "opened": opened}))
"""


def test_stage1_imports_and_opens_no_llm(world, stage1_run, tmp_path):
    """In a fresh process: no LLM code is imported, and no file of the LLM the targets come from is opened."""
    config = stage1_run / "config.yaml"
    flags = ["--store", world.path, "--out", tmp_path / "run", "--config", config, "--set", "schedule.steps=2"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED, "stage1", *map(str, flags)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    watched = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "run" / "projector" / "model.safetensors").is_file()
    forbidden = (
        "speechmapper.llm",
        "speechmapper.model",
        "transformers.models.llama.modeling_llama",
        "sm_pipeline.models.llm_table",
    )
    assert not set(forbidden) & set(watched["modules"])
    assert not any(name.startswith("speechmapper.prompt") for name in watched["modules"])
    assert any(str(world.path) in path for path in watched["opened"])  # the watch works
    assert not [path for path in watched["opened"] if str(world.llm_folder) in path]
