"""The loop on a stage of its own: it knows no stage, and everything in it is a function of the step."""

from __future__ import annotations

import io
import os
import signal
import sys
import weakref
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sm_store.errors import ConfigError
from speechmapper.train import loop as train_loop
from speechmapper.train.log import read_metrics
from speechmapper.train.loop import Loop
from speechmapper.train.run import Run, Setup
from speechmapper.train.run_folder import open_accelerator, start_run
from speechmapper.train.stage import Evaluation
from tests.speechmapper.tiny import data_of, stage1_config


class Recording:
    """A stage that learns nothing in particular and records what it is given."""

    stop_reason: str | None = None

    def __init__(self) -> None:
        self.seen: list[tuple[int, tuple[int, ...]]] = []
        self.drawn: list[float] = []
        self.evaluated: list[int] = []

    def counts(self, batch):
        return {"part": torch.tensor(float(len(batch.indices)))}

    def sums(self, model, batch):
        self.seen.append((batch.micro, tuple(batch.indices.tolist())))
        self.drawn.append(float(torch.rand(())))
        return {"part": model(batch.features_BTD[..., :2].float()).square().mean() * len(batch.indices)}

    def combine(self, sums, counts):
        return sums["part"] / counts["part"]

    def take_flop(self):
        return 0.0

    def evaluate(self, model, step):
        assert not model.training and not torch.is_grad_enabled()
        self.evaluated.append(step)
        return Evaluation({"figure": float(step)}, stop_reason=self.stop_reason)

    def save(self, out):
        return {}


class Plain(nn.Module):
    """A model without an objective and an adapter."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector
        self.adapter = None

    def forward(self, features):
        return self.projector(features)


def train(world, out, resume=False, stage=None, **sections):
    config = stage1_config(**sections)
    data = data_of(world, config.data)
    start_run(out, config, resume, open_accelerator(config.run, out))
    stage = stage or Recording()
    run = new_run(out, config, data, stage)
    return loop(config, data).run([run], resume)[0], stage, run.projector


def loop(config, data) -> Loop:
    return Loop("test", data.source, data.order, config.data, config.schedule, Accelerator(cpu=True))


def new_run(out, config, data, stage) -> Run:
    torch.manual_seed(0)
    setup = Setup(out, config, {"made": "for this"}, data.order, 25.0)
    return Run(setup, stage, Plain(nn.Linear(2, 1)), open_accelerator(config.run, out))


def test_every_step_reads_what_the_order_plans(world, tmp_path):
    sections = {"data": {"frames": 200, "max_utterances": 4, "micro_batches": 2}, "schedule": {"steps": 7}}
    _, stage, _ = train(world, tmp_path / "run", **sections)
    config = stage1_config(**sections)
    order = data_of(world, config.data).order
    expected = [tuple(batch.tolist()) for step in range(7) for batch in order.step(step)]
    assert [indices for _, indices in stage.seen] == expected
    assert [micro for micro, _ in stage.seen] == list(range(14))


def test_random_numbers_belong_to_the_micro_batch(world, tmp_path):
    _, whole, _ = train(world, tmp_path / "whole")
    _, first, _ = train(world, tmp_path / "parts", schedule={"steps": 3, "warmup": 2})
    _, second, _ = train(world, tmp_path / "parts", resume=True)
    assert first.drawn + second.drawn == whole.drawn
    assert len(set(whole.drawn)) == len(whole.drawn)


def test_evaluates_and_saves_when_due_and_at_the_end(world, tmp_path):
    run_settings = {"eval_every": 3, "eval_utterances": 1, "save_every": 2, "keep": 10, "log_every": 4}
    _, stage, _ = train(world, tmp_path / "run", run=run_settings)
    assert stage.evaluated == [3, 6, 8]
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == [f"step-{step:08d}" for step in (2, 4, 6, 8)]
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [4, 8]
    assert [line["dev_figure"] for line in lines if "dev_figure" in line] == [3.0, 6.0, 8.0]


def test_progress_shows_loss_and_error_rate_alone(world, tmp_path, monkeypatch):
    shown = []

    class Bar:
        def advance(self, steps: float = 1, **figures: object) -> None:
            shown.append(figures)

    class Validated(Recording):
        def evaluate(self, model, step):
            return Evaluation({"wer": 0.5, "cer": 0.2, "cosine": 0.9, "eet_ratio": 3.0})

    monkeypatch.setattr(train_loop, "progress", lambda *_, **__: nullcontext(Bar()))
    train(world, tmp_path / "run", stage=Validated(), run={"eval_every": 3, "eval_utterances": 1, "log_every": 2})
    assert {tuple(figures) for figures in shown} == {(), ("loss",), ("loss", "dev_wer")}
    assert {figures.get("dev_wer") for figures in shown} == {None, 0.5}


def test_a_stop_reason_ends_the_run_before_its_last_step(world, tmp_path):
    stage = Recording()
    stage.stop_reason = "good enough"
    outcome, _, _ = train(world, tmp_path / "run", stage=stage, run={"eval_every": 3, "eval_utterances": 1})
    assert (outcome.step, outcome.finished, outcome.ended) == (3, True, "good enough")
    again, stage, _ = train(world, tmp_path / "run", resume=True, run={"eval_every": 3, "eval_utterances": 1})
    assert (again.step, again.ended, stage.seen) == (3, "good enough", [])


class Interrupted(Recording):
    """Ctrl-C comes in the middle of a step."""

    def sums(self, model, batch):
        if batch.micro == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return super().sums(model, batch)


def test_ctrl_c_saves_and_says_how_to_continue(world, tmp_path, capfd):
    outcome, _, _ = train(world, tmp_path / "run", stage=Interrupted())
    assert (outcome.step, outcome.finished) == (6, False)
    assert "--resume" in outcome.ended and "continue with --resume" in capfd.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()
    rest, stage, _ = train(world, tmp_path / "run", resume=True)
    assert (rest.step, rest.finished, len(stage.seen)) == (8, True, 2)


def test_progress_of_a_resumed_run_counts_all_its_steps(world, tmp_path, monkeypatch):
    train(world, tmp_path / "run", schedule={"steps": 5})
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr("sm_pipeline.console.FIRST_LINE_AFTER", 0.0)
    train(world, tmp_path / "run", resume=True)
    assert shown.getvalue().startswith("test: 6/8 steps (75%)")


def test_the_model_learns_with_the_schedules_rate(world, tmp_path):
    _, _, model = train(world, tmp_path / "run", schedule={"steps": 4, "warmup": 2})
    torch.manual_seed(0)
    assert not torch.equal(model.weight, nn.Linear(2, 1).weight)
    rates = [line["lr"] for line in read_metrics(tmp_path / "run")]
    assert rates == pytest.approx([1.5e-3, 3e-3, 3e-3, 1.5e-3])


def test_processes_must_share_a_step_evenly(world, tmp_path, monkeypatch):
    accelerator = open_accelerator(stage1_config().run, tmp_path)
    monkeypatch.setattr(type(accelerator), "num_processes", 2)
    with pytest.raises(ConfigError, match=r"data\.micro_batches 1 cannot be shared by 2 processes"):
        train(world, tmp_path / "run")


@pytest.fixture
def averaged(monkeypatch):
    """Models are wrapped as they are in several processes; gives weak references to what wraps them."""
    made: list[weakref.ref] = []

    def prepare(self, model, optimizer):
        wrapped = DistributedDataParallel(model)
        self._models.append(wrapped)
        made.append(weakref.ref(wrapped))
        return wrapped, optimizer

    monkeypatch.setattr(Accelerator, "prepare", prepare)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield made
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_what_averages_gradients_is_gone_when_the_process_group_ends(world, tmp_path, averaged, monkeypatch):
    """Else a gradient reducer is the last to hold the group, and may wait for a thread that waits for it."""
    config = stage1_config(schedule={"steps": 2})
    data = data_of(world, config.data)
    end, found = distributed.destroy_process_group, []
    monkeypatch.setattr(
        distributed, "destroy_process_group", lambda group=None: (found.extend(ref() for ref in averaged), end(group))
    )
    for name in "ab":
        (tmp_path / name).mkdir()
    ended = loop(config, data).run([new_run(tmp_path / name, config, data, Recording()) for name in "ab"], False)
    assert [outcome.step for outcome in ended] == [2, 2]
    assert found == [None, None]
    assert not distributed.is_initialized()


def test_the_process_group_is_kept_where_other_loops_follow(world, tmp_path, averaged):
    config = stage1_config(schedule={"steps": 2})
    data = data_of(world, config.data)
    for name in "ab":
        (tmp_path / name).mkdir()
        loop(config, data).run([new_run(tmp_path / name, config, data, Recording())], False, in_sweep=True)
        assert distributed.is_initialized()
    assert [ref() for ref in averaged] == [None, None]


class StoppedAtTheEnd(Recording):
    """Ctrl-C comes in the validation after the last step."""

    def evaluate(self, model, step):
        os.kill(os.getpid(), signal.SIGINT)
        return super().evaluate(model, step)


@pytest.mark.parametrize("stage", [Recording(), StoppedAtTheEnd()])
def test_a_signal_at_the_last_step_is_noted(world, tmp_path, stage):
    config = stage1_config(run={"eval_utterances": 1})
    data = data_of(world, config.data)
    (tmp_path / "run").mkdir()
    training = loop(config, data)
    (outcome,) = training.run([new_run(tmp_path / "run", config, data, stage)], False)
    assert outcome.finished
    assert training.stop_requested == isinstance(stage, StoppedAtTheEnd)
