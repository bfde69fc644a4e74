"""Validation of stage 1: its part of the split, its figures, its files, and the threshold that may end a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sm_store.errors import ConfigError
from speechmapper.train.checkpoint import list_checkpoints
from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.validation import dev_set, spread, vector_validation, write_examples
from tests.speechmapper.tiny import data_of, stage1_config


def train(world, out, resume: bool = False, **sections):
    return train_stage1(Stage1Request(world.path, out, stage1_config(**sections), resume=resume))


def test_spread_is_even_and_whole():
    assert spread(np.arange(10), 3).tolist() == [0, 4, 9]
    assert spread(np.arange(4), 9).tolist() == [0, 1, 2, 3]
    assert spread(np.arange(4), 0).tolist() == []


def test_the_dev_set_is_of_the_dev_split_and_sorted_by_length(world, tmp_path):
    config = stage1_config(run={"eval_utterances": 3, "examples": 2})
    data = data_of(world, config.data)
    dev = dev_set(tmp_path, data, config.run)
    assert set(dev.indices.tolist()) <= set(data.dev.tolist()) and len(dev.indices) == 3
    frames = world.store.frames[dev.indices]
    assert (np.diff(frames) >= 0).all()
    assert [text.lower().rstrip(".") for text in dev.references] == [world.texts[index] for index in dev.indices]
    batches = list(dev.batches(torch.device("cpu"), 2))
    assert [batch.indices.tolist() for batch in batches] == [dev.indices[:2].tolist(), dev.indices[2:].tolist()]


def test_without_dev_utterances_there_is_no_validation(world, tmp_path):
    config = stage1_config(run={"eval_utterances": 3})
    data = data_of(world, config.data, split="dev")
    assert dev_set(tmp_path, data, config.run) is None
    assert vector_validation(tmp_path, data, config.run) is None
    none = stage1_config(run={"eval_utterances": 0})
    assert vector_validation(tmp_path, data_of(world, none.data), none.run) is None


def test_examples_are_appended_evenly_spread(tmp_path):
    write_examples(tmp_path, 5, ["a", "b", "c"], ["x", "y", "z"], 2)
    write_examples(tmp_path, 6, ["a"], ["w"], 0)
    write_examples(tmp_path, 7, ["a"], ["w"], 2)
    lines = (tmp_path / "examples.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("step")] == ["step 5", "step 7"]
    assert [line.split()[-1] for line in lines if not line.startswith("step")] == ["a", "x", "c", "z", "a", "w"]


def eet_file(folder, world, relative_mse: float) -> str:
    spec = world.store.targets("tiny").spec
    threshold = {"relative_mse": relative_mse, "mse": relative_mse * spec.table_scale, "first_failing": 1.0}
    written = {"threshold": threshold, "llm": {"id": spec.llm}, "table_sha256": spec.table_sha256}
    path = folder / "eet.json"
    path.write_text(json.dumps(written))
    return str(path)


def test_a_run_logs_its_distance_to_the_threshold_and_can_stop_there(world, tmp_path):
    run = {"eval_every": 2, "eval_utterances": 3, "eet": eet_file(tmp_path, world, 1e-9)}
    outcome = train(world, tmp_path / "far", run={**run, "stop_at_eet": True})
    assert outcome.step == 8
    lines = [line for line in read_metrics(tmp_path / "far") if "dev_eet_ratio" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert lines[0]["dev_eet_ratio"] == pytest.approx(lines[0]["dev_relative_mse"] / 1e-9, rel=1e-4)
    run["eet"] = eet_file(tmp_path, world, 1e9)
    assert train(world, tmp_path / "near", run=run).step == 8
    outcome = train(world, tmp_path / "stopped", run={**run, "stop_at_eet": True})
    assert (outcome.step, outcome.finished) == (2, True)
    assert "below the LLM's embedding error threshold" in outcome.ended
    assert [path.name for path in list_checkpoints(tmp_path / "stopped")] == ["step-00000002"]
    again = train(world, tmp_path / "stopped", resume=True, run={**run, "stop_at_eet": True})
    assert (again.step, again.finished) == (2, True)


def test_another_llms_threshold_is_refused(world, tmp_path):
    path = eet_file(tmp_path, world, 0.1)
    written = json.loads((tmp_path / "eet.json").read_text()) | {"table_sha256": "0" * 64}
    (tmp_path / "eet.json").write_text(json.dumps(written))
    with pytest.raises(ConfigError, match="not that of target set tiny"):
        train(world, tmp_path / "run", run={"eet": path})
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read .*; measure the threshold with `sm-eval eet"):
        train(world, tmp_path / "run", run={"eet": str(tmp_path / "none.json")})


def test_norms_are_logged_at_each_validation(world, tmp_path):
    train(world, tmp_path / "run", run={"eval_every": 4, "eval_utterances": 3})
    lines = [json.loads(line) for line in (tmp_path / "run" / "norms.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    for line in lines:
        assert sum(line["vectors"]) == pytest.approx(1, abs=1e-4) and sum(line["table"]) == pytest.approx(1, abs=1e-4)
        assert len(line["edges"]) == len(line["vectors"])
    last = read_metrics(tmp_path / "run")[-1]
    assert {"dev_length_error", "dev_length_ratio", "dev_norm_p05", "dev_norm_p50", "dev_norm_p95"} <= set(last)
    trained = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert all(line["tokens_per_second"] > 0 and line["peak_memory_gb"] > 0.05 for line in trained)


def test_tensorboard_draws_the_norms(world, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(world, tmp_path / "run", run={"eval_utterances": 3, "trackers": ["tensorboard"]})
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "speechmapper")).Reload().Tags()
    assert "dev_norm" in found["histograms"] and "dev_wer" in found["scalars"]
