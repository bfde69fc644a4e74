"""kill -9 during `sm-pipeline extract`, again and again: the command run once more ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sm_store import Store, StoreMissing
from tests.store.building import tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
UTTERANCES, SHARD = 60, 4
KILLS = 3
PATIENCE = 120  # seconds until an extraction has committed something more


def command(corpus: Path, store: Path) -> list[str]:
    program = [sys.executable, "-m", "sm_pipeline.cli", "extract", str(corpus / "manifest.jsonl")]
    options = ["--encoder", "tiny-seamless", "--shard-utterances", str(SHARD), "--workers", "1"]
    return [*program, "--store", str(store), *options]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("kill") / "corpus"
    words = [sys.executable, "-m", "sm_pipeline.cli", "demo-corpus", str(out), "--utterances", str(UTTERANCES)]
    subprocess.run(words, check=True, capture_output=True)
    return out


def shards_of(store: Path) -> set[int]:
    """What a reader sees at this instant; opening never fails on a store that is being written."""
    try:
        return Store.open(store).done_shards()
    except StoreMissing:
        return set()


def kill_after_some_work(corpus: Path, store: Path, chance: random.Random) -> None:
    """Start the extraction, wait until it committed a shard more than before, and kill it a moment later."""
    before = len(shards_of(store))
    running = subprocess.Popen(command(corpus, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while len(shards_of(store)) <= before and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.3))
    os.kill(running.pid, signal.SIGKILL)
    running.wait()


def test_killed_and_run_again_gives_the_same_bytes(corpus, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(corpus, undisturbed), check=True, capture_output=True)
    chance, unfinished = random.Random(0), 0
    for _ in range(KILLS):
        kill_after_some_work(corpus, killed, chance)
        unfinished += len(shards_of(killed)) < UTTERANCES // SHARD
    assert unfinished  # else nothing was interrupted and this test shows nothing
    subprocess.run(command(corpus, killed), check=True, capture_output=True)
    assert tree(killed) == tree(undisturbed)
