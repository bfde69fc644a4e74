"""Stage 2 with the LLM's layers divided among two processes: the run of one process, and its validation in step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from speechmapper.config_file import to_yaml
from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from tests.speechmapper.tiny import distance, make_world, stage1_config, stage2_config

ROOT = Path(__file__).parents[3]
CLOSE = 1e-6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two translations of each utterance: about a batch of 16 utterances the LLM is asked twice."""
    translated = {"translation": {"de": "rain", "fr": "boat"}}
    return make_world(tmp_path_factory.mktemp("translated"), utterances=40, splits=("train", "dev"), **translated)


@pytest.fixture(scope="module")
def stage1_run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("stage1") / "run"
    train_stage1(Stage1Request(world.path, out, stage1_config()))
    return out


def in_two_processes(world, stage1_run, config, out: Path, *more: str) -> subprocess.CompletedProcess:
    out.with_suffix(".yaml").write_text(to_yaml("stage2", config))
    flags = ["stage2", "--store", world.path, "--projector", stage1_run, "--llm", world.llm_folder, "--out", out]
    flags += ["--config", out.with_suffix(".yaml"), "--set", "llm.shard=true", *more]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD"))}
    line = [sys.executable, "-m", "speechmapper.train.cli", *flags]
    return subprocess.run(
        list(map(str, line)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**kept, "OMP_NUM_THREADS": "1"},
        timeout=280,
    )


def figures(run: Path) -> list[dict[str, float]]:
    """What does not depend on the time."""
    kept = ("loss", "ce", "word", "pad", "dev_")
    return [{name: value for name, value in line.items() if name.startswith(kept)} for line in read_metrics(run)]


def assert_same(one: Path, other: Path) -> None:
    first, second = figures(one), figures(other)
    assert len(first) == len(second)
    for line, expected in zip(first, second, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    assert distance(one, other) < CLOSE


# 20 utterances are two batches, of 2 and 1 reads; with 10 one process has no batch of its own.
@pytest.mark.parametrize(("utterances", "lora"), [(20, {}), (10, {"rank": 4})], ids=["uneven", "one batch, lora"])
def test_a_run_with_a_sharded_llm_is_that_of_one_process(world, stage1_run, tmp_path, utterances, lora):
    config = stage2_config(
        tuning={"sigma": 0.5, "unseen_tasks": ["st"]},
        lora=lora,
        optimizer={"lr": 1e-4},
        schedule={"steps": 2},
        run={"eval_utterances": utterances, "eval_every": 1, "save_every": 1},
    )
    train_stage2(Stage2Request(world.path, stage1_run, str(world.llm_folder), tmp_path / "alone", config))
    done = in_two_processes(world, stage1_run, config, tmp_path / "run", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", tmp_path / "alone")
    assert {"dev_unseen_task_st_de_bleu", "dev_unseen_wording_wer"} <= figures(tmp_path / "run")[-1].keys()
    folders = {path.name for path in (tmp_path / "run").iterdir()}
    assert folders <= {
        "config.yaml",
        "metrics.jsonl",
        "examples.txt",
        "checkpoints",
        "projector",
        "lora",
        "norms.jsonl",
    }
    weights = [path / "lora" / "adapter_model.safetensors" for path in (tmp_path / "run", tmp_path / "alone")]
    if lora:
        one, other = map(load_file, weights)
        assert max(float((one[name] - other[name]).abs().max()) for name in one) < CLOSE


def test_one_process_is_refused_in_one_line(world, stage1_run, tmp_path):
    done = in_two_processes(world, stage1_run, stage2_config(), tmp_path / "run")
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "llm.shard: there is one process, and nothing to divide" in line and "--processes N" in line


def test_a_run_goes_on_with_another_way_to_hold_the_llm(world, stage1_run, tmp_path):
    """It changes no result, so it is no part of the run's identity."""
    config = stage2_config(schedule={"steps": 1}, optimizer={"lr": 1e-4})
    done = in_two_processes(world, stage1_run, config, tmp_path / "run", "--processes", "2")
    assert done.returncode == 0, done.stderr
    config = stage2_config(schedule={"steps": 2}, optimizer={"lr": 1e-4})
    request = Stage2Request(world.path, stage1_run, str(world.llm_folder), tmp_path / "run", config, resume=True)
    assert train_stage2(request).step == 2
