"""metrics.jsonl: one line per logged step, truncated where a run continues, whole after any crash; and its sums."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import MLflowTracker

from speechmapper.config import TRACKERS
from speechmapper.config_file import to_plain
from speechmapper.loader.prefetch import StepBatches
from speechmapper.train.log import (
    Interval,
    RunLog,
    flatten,
    kept_examples,
    kept_lines,
    last_figures,
    peak_gigabytes,
    read_metrics,
    run_names,
)
from speechmapper.train.run_folder import open_accelerator
from tests.speechmapper.tiny import stage1_config


def log_of(tmp_path) -> RunLog:
    return RunLog(tmp_path, Accelerator(cpu=True), to_plain(stage1_config()))


def test_lines_hold_step_and_figures(tmp_path):
    log = log_of(tmp_path)
    log.write(10, {"loss": 1.23456789, "epoch": 3})
    log.write(20, {"loss": float("nan"), "dev_wer": 0.5})
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 1.23457, "epoch": 3},
        {"step": 20, "loss": None, "dev_wer": 0.5},  # JSON has no NaN
    ]


def test_resuming_cuts_what_came_after(tmp_path):
    log = log_of(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"loss": float(step)})
    (tmp_path / "norms.jsonl").write_text('{"step": 20}\n{"step": 30}\n')
    (tmp_path / "examples.txt").write_text("step 20\n  reference  a\n  output     step 30\nstep 30\n  reference  b\n")
    log_of(tmp_path).truncate_after(20)
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20]
    assert (tmp_path / "norms.jsonl").read_text() == '{"step": 20}\n'
    assert (tmp_path / "examples.txt").read_text() == "step 20\n  reference  a\n  output     step 30\n"


@pytest.mark.parametrize(("step", "kept"), [(4, b""), (5, b"step 5\n  a\n"), (9, b"step 5\n  a\nstep 9\n  b\n")])
def test_examples_are_kept_up_to_the_step(step, kept):
    assert kept_examples(b"step 5\n  a\nstep 9\n  b\n", step) == kept


def test_a_half_written_line_is_dropped():
    data = b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo'
    assert kept_lines(data, 5) == b'{"step": 1, "loss": 2.0}\n'


def test_restarting_without_a_file_is_fine(tmp_path):
    log_of(tmp_path).truncate_after(0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_flatten_gives_plain_values():
    flat = flatten(to_plain(stage1_config()))
    assert flat["optimizer.lr"] == 3e-3
    assert flat["model.block_sizes"] == "[32, 32]"
    assert json.dumps(flat)


def test_each_tracker_accepts_the_argument_that_names_the_run():
    names = run_names("run-7")
    assert set(names) == set(TRACKERS) - {"tensorboard"}  # its folder is the run's
    assert set(names["mlflow"]) <= set(inspect.signature(MLflowTracker.__init__).parameters)
    for other in ("wandb", "trackio"):  # passed on to their init()
        assert names[other] == {"name": "run-7"}


def test_time_spent_evaluating_is_not_training_time(monkeypatch):
    clock = iter([10.0, 40.0, 50.0])  # pause begins, pause ends, totals
    monkeypatch.setattr("speechmapper.train.log.time.perf_counter", lambda: next(clock))
    interval = Interval(_started=0.0)
    with interval.paused():
        pass

    class Alone:
        device, num_processes = torch.device("cpu"), 1

        def reduce(self, values, _how):
            return values

    assert interval.totals(Alone()).seconds == pytest.approx(20.0)


def test_an_intervals_means_are_over_all_its_positions():
    interval = Interval()
    interval.add_loss({"word": torch.tensor(6.0)}, {"word": torch.tensor(2.0)})
    interval.add_loss({"word": torch.tensor(1.0)}, {"word": torch.tensor(8.0)})

    class Two:
        """Two processes with the same sums; the counts are the step's already."""

        device, num_processes = torch.device("cpu"), 2

        def reduce(self, values, _how):
            return 2 * values

    assert interval.totals(Two()).means()["word"] == pytest.approx(14.0 / 10.0)
    assert np.isclose(float(interval.totals(Two()).counts["word"]), 10.0)


def test_an_intervals_figures_are_over_the_steps_it_added():
    interval = Interval()
    for frames, tokens, wait in ((100, 10, 0.5), (60, 6, 0.25)):
        interval.add_step(StepBatches(0, [], frames, tokens, wait))
    totals = interval.totals(Accelerator(cpu=True))
    assert (totals.frames, totals.tokens, totals.wait, totals.steps) == (160, 16, 0.75, 2)
    assert (totals.sums, totals.means()) == ({}, {})


def test_peak_memory_is_in_gigabytes():
    held = np.ones(25_000_000)  # 0.2 GB
    assert held.nbytes / 1e9 < peak_gigabytes(torch.device("cpu")) < 100


def test_histograms_go_to_tensorboard_and_to_nothing_else(tmp_path):
    config = stage1_config(run={"trackers": ["tensorboard"]})
    accelerator = open_accelerator(config.run, tmp_path)
    log = RunLog(tmp_path, accelerator, to_plain(config))
    log.histograms(3, {"dev_norm": np.arange(5.0)})
    log.close()
    assert list((tmp_path / "tensorboard").rglob("events*"))
    log_of(tmp_path).histograms(3, {"dev_norm": np.arange(5.0)})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_last_figures_are_those_of_the_last_line_and_validation(tmp_path):
    assert last_figures(tmp_path, 9) == {}
    log = log_of(tmp_path)
    for step, figures in ((1, {"loss": 5.0, "lr": 1.0}), (1, {"dev_wer": 0.5}), (2, {"loss": 4.0}), (3, {"loss": 3.0})):
        log.write(step, figures)
    assert last_figures(tmp_path, 2) == {"loss": 4.0, "dev_wer": 0.5}
    log.write(4, {"loss": float("nan"), "dev_wer": 0.25})
    found = last_figures(tmp_path, 4)
    assert np.isnan(found["loss"]) and found["dev_wer"] == 0.25
