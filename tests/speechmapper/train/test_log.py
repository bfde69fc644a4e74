"""metrics.jsonl: one line a step, cut where a run goes on, whole under any crash."""

from __future__ import annotations

import inspect
import json

from accelerate import Accelerator
from accelerate.tracking import MLflowTracker

from speechmapper.config import TRACKERS
from speechmapper.config_file import to_plain
from speechmapper.train.log import Report, flatten, kept_lines, read_metrics, run_names
from tests.speechmapper.tiny import stage1_config


def report(tmp_path) -> Report:
    return Report(tmp_path, Accelerator(cpu=True), to_plain(stage1_config()))


def test_lines_hold_step_and_figures(tmp_path):
    told = report(tmp_path)
    told.write(10, {"loss": 1.23456789, "epoch": 3})
    told.write(20, {"loss": float("nan"), "dev_wer": 0.5})
    assert read_metrics(tmp_path) == [
        {"step": 10, "loss": 1.23457, "epoch": 3},
        {"step": 20, "loss": None, "dev_wer": 0.5},  # JSON has no NaN
    ]


def test_resuming_cuts_what_came_after(tmp_path):
    told = report(tmp_path)
    for step in (10, 20, 30):
        told.write(step, {"loss": float(step)})
    report(tmp_path).restart_at(20)
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20]


def test_a_half_written_line_is_dropped():
    data = b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo'
    assert kept_lines(data, 5) == b'{"step": 1, "loss": 2.0}\n'


def test_restarting_without_a_file_is_fine(tmp_path):
    report(tmp_path).restart_at(0)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_flatten_gives_plain_values():
    flat = flatten(to_plain(stage1_config()))
    assert flat["optimizer.lr"] == 3e-3
    assert flat["model.block_sizes"] == "[32, 32]"
    assert json.dumps(flat)


def test_each_tracker_takes_the_name_it_is_given():
    names = run_names("run-7")
    assert set(names) == set(TRACKERS) - {"tensorboard"}  # its folder is the run's
    assert set(names["mlflow"]) <= set(inspect.signature(MLflowTracker.__init__).parameters)
    for other in ("wandb", "trackio"):  # handed on to their init()
        assert names[other] == {"name": "run-7"}
