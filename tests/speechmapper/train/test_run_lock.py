"""The lock of a run folder: one training at a time, gone with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from accelerate import Accelerator

from sm_store.errors import ConfigError
from speechmapper.train.run_lock import locked_run
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from tests.speechmapper.tiny import stage1_config, stage2_config

HOLDER = """
import sys
from pathlib import Path
from accelerate import Accelerator
from speechmapper.train.run_lock import locked_run
with locked_run(Path(sys.argv[1]), Accelerator(cpu=True)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_is_refused_and_writes_nothing(world, stage1_run, tmp_path, holder):
    out = tmp_path / "run"
    for resume in (False, True):
        with pytest.raises(ConfigError, match="another training is writing there; wait for it to end"):
            train_stage1(Stage1Request(world.path, out, stage1_config(), resume=resume))
        with pytest.raises(ConfigError, match="another training is writing there; wait for it to end"):
            train_stage2(
                Stage2Request(world.path, stage1_run, str(world.llm_folder), out, stage2_config(), resume=resume)
            )
    assert [path.name for path in out.iterdir()] == [".locks"]


def test_the_lock_dies_with_its_process(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    with locked_run(tmp_path / "run", Accelerator(cpu=True)):
        assert os.listdir(tmp_path / "run") == [".locks"]
    assert os.listdir(tmp_path / "run") == []


def test_a_folder_is_free_after_a_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), locked_run(tmp_path, Accelerator(cpu=True)):
        raise ZeroDivisionError
    with locked_run(tmp_path, Accelerator(cpu=True)):
        pass


def test_other_processes_of_the_run_share_the_main_ones_lock(tmp_path, monkeypatch):
    accelerator = Accelerator(cpu=True)
    with locked_run(tmp_path, accelerator):
        monkeypatch.setattr(type(accelerator), "is_main_process", False)
        with locked_run(tmp_path, accelerator):
            pass
        monkeypatch.undo()


def test_a_store_gets_no_lock(world):
    before = sorted(world.path.rglob("*"))
    with locked_run(world.path, Accelerator(cpu=True)):
        assert sorted(world.path.rglob("*")) == before
