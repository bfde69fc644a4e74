"""Fixtures of the speechmapper tests: the tiny world, real audio through a tiny encoder, and a run of each stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm_pipeline.config import ExtractConfig, TargetConfig
from sm_pipeline.extraction.extract import extract
from speechmapper.config import Stage1Config, Stage2Config
from speechmapper.config_file import load_config
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from tests import speech
from tests.speechmapper.tiny import SMALL_MODEL, World, make_world, quiet_run, save_llm, stage1_config, stage2_config


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


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """Audio, a store extracted from it, and a run of each stage (one step: what is said does not matter)."""
    folder = tmp_path_factory.mktemp("chain")
    llm = save_llm(folder / "llm")
    manifest = speech.write_corpus(folder / "corpus", utterances=4, is_spoken=True)
    store = folder / "store"
    extract(
        ExtractConfig(manifest, store, encoder="tiny-seamless", targets=TargetConfig(str(llm)), device="cpu", workers=1)
    )
    small = {"schedule": {"steps": 1, "warmup": 0}, "run": quiet_run(), "data": {"micro_batches": 1}}
    one = load_config("stage1", Stage1Config, [("tests", {**small, "model": SMALL_MODEL})])
    two = load_config("stage2", Stage2Config, [("tests", small)])
    train_stage1(Stage1Request(store, folder / "stage1", one))
    train_stage2(Stage2Request(store, folder / "stage1", str(llm), folder / "stage2", two))
    return folder
