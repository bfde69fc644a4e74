"""The run folder: written once, replaced as a whole, compared before it is used."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import torch
from accelerate.state import AcceleratorState

from sm_store.errors import ConfigError, IdentityMismatch
from speechmapper.config_file import load_stage1
from speechmapper.train.checkpoint import list_checkpoints
from speechmapper.train.run_folder import open_accelerator, start_run
from speechmapper.train.stage1 import Stage1Request, train_stage1
from tests.speechmapper.tiny import stage1_config


def begin(out, config, resume):
    start_run(out, config, resume, open_accelerator(config.run, out))


def test_the_resolved_config_is_written_and_is_itself_a_config(tmp_path):
    config = stage1_config(seed=7)
    begin(tmp_path / "run", config, False)
    assert load_stage1(None, tmp_path / "run" / "config.yaml", []) == config


@pytest.mark.parametrize("made", ["metrics.jsonl", "projector", "checkpoints/step-00000001"])
def test_a_run_that_is_there_is_continued_or_left_alone(tmp_path, made):
    (tmp_path / made).mkdir(parents=True)
    with pytest.raises(ConfigError, match="--resume, or name another folder"):
        begin(tmp_path, stage1_config(), False)
    begin(tmp_path, stage1_config(), True)


def test_a_store_does_not_become_a_run(world, tmp_path):
    before = sorted(world.path.iterdir())
    with pytest.raises(ConfigError, match="a store is there; name another folder"):
        train_stage1(Stage1Request(world.path, world.path, stage1_config()))
    assert sorted(world.path.iterdir()) == before


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        begin(tmp_path / "file" / "run", stage1_config(), False)


def test_precision_follows_the_device(tmp_path):
    run = stage1_config().run
    assert open_accelerator(run, tmp_path).mixed_precision == "no"  # auto on a CPU
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        open_accelerator(stage1_config(run={"precision": "fp16"}).run, tmp_path)


def test_a_choice_that_older_runs_lack_does_not_part_them_from_what_they_were(world, tmp_path):
    """Identities older than the three choices lack their names, as do those of runs that choose as before."""
    as_before = {"norm_before_linear": True, "dropout_after_positions": True}
    settings = {"before": {"model": as_before, "data": {"bucket_utterances": 1}}, "today": {}}
    for out, sections in settings.items():
        train_stage1(Stage1Request(world.path, tmp_path / out, stage1_config(**sections, run={"save_every": 1})))
    kept = {out: read_identity(tmp_path / out) for out in settings}
    assert not as_before.keys() & kept["before"]["model"].keys()
    assert {name: kept["today"]["model"][name] for name in as_before} == dict.fromkeys(as_before, False)
    assert "bucket_utterances" not in kept["before"]["data"]
    assert kept["today"]["data"]["bucket_utterances"] == 512
    assert not {"kd_weight", "kd_layers", "llm"} & kept["today"]["objective"].keys()
    with pytest.raises(IdentityMismatch, match=r"model\.norm_before_linear"):
        train_stage1(Stage1Request(world.path, tmp_path / "before", stage1_config(), resume=True))


def read_identity(run):
    return json.loads((list_checkpoints(run)[-1] / "state.json").read_text())["identity"]


def test_processes_wait_for_a_long_validation_of_the_main_one(tmp_path, monkeypatch):
    """Accelerate's default, 10 minutes on GPUs, would end the run."""
    waits: list[timedelta] = []

    class Joined(Exception):
        """Instead of joining a process group."""

    def join(*_args: object, timeout: timedelta, **_more: object) -> None:
        waits.append(timeout)
        raise Joined

    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    for name, value in {**world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with pytest.raises(Joined):
            open_accelerator(stage1_config().run, tmp_path)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert waits == [timedelta(days=1)]
