"""The Ray engine on a cluster of this machine: the same store, also when a worker is lost in the middle."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sm_store import Store
from sm_store.verify import verify
from tests.pipeline.extraction.test_extract import files_of
from tests.speech import write_corpus

CLUSTER = """
import sys, ray
context = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8, log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""
SM_PIPELINE = str(Path(sys.executable).parent / "sm-pipeline")
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
QUIET = {**os.environ, **RAY, "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two CPUs, in processes of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=QUIET,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def command(manifest: Path, store: Path, *more: str) -> list[str]:
    settings = ["--encoder", "tiny-seamless", "--device", "cpu", "--shard-utterances", "3"]
    return [SM_PIPELINE, "extract", str(manifest), "--store", str(store), *settings, *more]


def actors() -> list[int]:
    """Processes that Ray runs our workers in."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::Actor"):
            found.append(int(entry.name))
    return found


def test_no_cluster_is_a_sentence(tmp_path):
    """First of all: later ones find the cluster of this file."""
    manifest = write_corpus(tmp_path / "corpus", 4)
    environment = {name: value for name, value in QUIET.items() if name != "RAY_ADDRESS"}
    wrong = command(manifest, tmp_path / "s.store", "--engine", "ray")
    run = subprocess.run(wrong, capture_output=True, text=True, timeout=120, env=environment)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: --engine ray: no Ray cluster can be reached (")
    assert not (tmp_path / "s.store").exists()


def test_two_workers_one_of_them_killed_make_the_store_of_one_process(tmp_path, address):
    manifest = write_corpus(tmp_path / "corpus", 90)
    store, alone = tmp_path / "ray.store", tmp_path / "alone.store"
    subprocess.run(command(manifest, alone, "--workers", "1"), check=True, capture_output=True, timeout=120)
    run = subprocess.Popen(
        command(manifest, store, "--engine", "ray"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**QUIET, "RAY_ADDRESS": address},
    )
    until = time.monotonic() + 120
    while not list(store.glob("catalog/*.parquet")) and run.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    victims = actors()
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    said, messages = run.communicate(timeout=180)
    assert run.returncode == 0, messages
    assert "2 workers" in said
    assert len(Store.open(store).done_shards()) == 30
    assert verify(store).ok
    assert files_of(store) == files_of(alone)
    while actors() and time.monotonic() < until + 60:
        time.sleep(0.1)
    assert actors() == []


DRIVER = """
from dataclasses import replace
from pathlib import Path
from sm_pipeline.extraction.engines import ENGINES, Run
from sm_pipeline.manifest import read_manifest
from sm_pipeline.extraction.plan import UnitRule, plan_units
from sm_pipeline.extraction.unit import UnitWork
from sm_store.errors import IdentityMismatch, RunFailed
from tests.pipeline.extraction.engines.test_local import tiny_store
from tests.pipeline.extraction.test_unit import make_store, setup_for
folder = Path("FOLDER")
utterances = read_manifest(folder / "corpus" / "manifest.jsonl").utterances
tasks = [UnitWork(unit, utterances) for unit in plan_units(utterances, UnitRule(1.0))]
other = setup_for(make_store(folder / "other", 7), folder / "corpus")
buggy = replace(setup_for(tiny_store(folder / "tiny"), folder / "corpus"), average=0)
for setup in (other, buggy):
    try:
        list(ENGINES["ray"].run_units(Run(setup, 1), tasks))
    except (IdentityMismatch, RunFailed) as error:
        print(type(error).__name__, str(error))
"""


def test_what_fails_in_a_worker_is_said_by_the_driver(tmp_path, address):
    write_corpus(tmp_path / "corpus", 4)
    run = subprocess.run(
        [sys.executable, "-c", DRIVER.replace("FOLDER", str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=120,
        env={**QUIET, "RAY_ADDRESS": address},
    )
    refused, failed = run.stdout.splitlines()
    assert refused.startswith("IdentityMismatch") and "width: 7 != 256" in refused
    assert failed.startswith("RunFailed a worker failed at shard 0: ZeroDivisionError(")
