"""Fixtures of the speechmapper tests: the tiny world, and a run of each stage in it (made once)."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from tests.speechmapper.tiny import World, make_world, stage1_config, stage2_config


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def stage1_run(world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stage1"
    config = stage1_config(run={"eval_utterances": 5, "examples": 2, "save_every": 4})
    train_stage1(Stage1Request(world.path, out, config))
    return out


@pytest.fixture(scope="session")
def stage2_run(world, stage1_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stage2"
    config = stage2_config(run={"eval_utterances": 2})
    train_stage2(Stage2Request(world.path, stage1_run, str(world.llm_folder), out, config))
    return out
