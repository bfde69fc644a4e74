"""Runs on several stores: exact resume, also by two processes; what they record; sweeps and stage 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sm_store import Store
from sm_store.errors import IdentityMismatch
from speechmapper.config_file import to_yaml
from speechmapper.projector import Projector
from speechmapper.train.log import read_metrics
from speechmapper.train.stage1 import Stage1Request, train_stage1
from speechmapper.train.stage2 import Stage2Request, train_stage2
from speechmapper.train.sweep import SweepRequest, sweep_stage1
from speechmapper.train.vary import parse_axes, stage1_variants
from tests.speechmapper.tiny import distance, second_store, stage1_config, stage2_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def stores(world, tmp_path_factory) -> list[Path]:
    """The world, and a store of other layout, whose target set has another kind and name."""
    made = tmp_path_factory.mktemp("second") / "store"
    return [world.path, second_store(made, layout="webdataset", kind="table", name="renamed")]


def config(steps: int = 6, **run: int):
    data = {"frames": 150, "max_utterances": 3, "micro_batches": 4}
    return stage1_config(data=data, schedule={"steps": steps, "warmup": 1, "shape": "constant"}, run=run)


@pytest.fixture(scope="module")
def whole(stores, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train_stage1(Stage1Request(stores, out, config(eval_utterances=6)))
    return out


def same(one: Path, other: Path) -> bool:
    first, second = (Projector.from_pretrained(run / "projector").state_dict() for run in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_resumed_equals_uninterrupted_to_the_bit(stores, whole, tmp_path):
    train_stage1(Stage1Request(stores, tmp_path / "run", config(3)))
    train_stage1(Stage1Request(stores, tmp_path / "run", config(6), resume=True))
    assert same(tmp_path / "run", whole)
    assert "dev_wer" in read_metrics(whole)[-1]


def test_two_processes_resume_to_the_bit_and_are_one_run(stores, whole, tmp_path):
    """Stopped in the middle or not, by two processes; as one process trains it but for the order of sums."""
    (tmp_path / "config.yaml").write_text(to_yaml("stage1", config()))
    for out, lengths in (("parts", (3, 6)), ("whole", (6,))):
        for steps in lengths:
            flags = ["--config", tmp_path / "config.yaml", "--out", tmp_path / out, "--processes", 2, "--resume"]
            flags += [part for store in stores for part in ("--store", store)]
            line = [sys.executable, "-m", "speechmapper.train.cli", "stage1", *flags]
            line += ["--set", f"schedule.steps={steps}"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                list(map(str, line)), cwd=ROOT, capture_output=True, text=True, env=environment, timeout=200
            )
            assert done.returncode == 0, done.stderr
            assert done.stderr.count("utterances of each store") == 1
    assert same(tmp_path / "parts", tmp_path / "whole")
    assert distance(tmp_path / "whole", whole) < 1e-5


def test_another_order_or_number_of_stores_is_not_resumed(stores, tmp_path):
    train_stage1(Stage1Request(stores, tmp_path / "run", config(1)))
    with pytest.raises(IdentityMismatch, match="give those of this command in the order 2, 1"):
        train_stage1(Stage1Request(stores[::-1], tmp_path / "run", config(2), resume=True))
    with pytest.raises(IdentityMismatch, match="trains on 2 stores, this command names 1"):
        train_stage1(Stage1Request(stores[0], tmp_path / "run", config(2), resume=True))


def test_what_a_projector_records_and_its_card_says(stores, whole, world):
    made = Projector.from_pretrained(whole / "projector").config.trained_for
    assert [each["manifest_sha256"] for each in made["stores"]] == ["0" * 64, "1" * 64]
    assert made["encoder"] == dict(world.store.identity.encoder) and made["target"]["name"] == "tiny"
    assert "after stage1, from 2 stores." in (whole / "projector" / "README.md").read_text()


def test_stage2_opens_each_store_once_to_train_and_once_to_validate(stores, whole, world, tmp_path, monkeypatch):
    opened = []
    opening = Store.open.__func__

    def noting(kind, path, *rest, **more):
        opened.append(Path(path))
        return opening(kind, path, *rest, **more)

    monkeypatch.setattr(Store, "open", classmethod(noting))
    wanted = stage2_config(run={"eval_utterances": 2}, schedule={"steps": 2})
    train_stage2(Stage2Request(stores, whole, str(world.llm_folder), tmp_path / "run", wanted))
    assert sorted(opened) == sorted([*stores, *stores])
    made = Projector.from_pretrained(tmp_path / "run" / "projector").config.trained_for
    assert len(made["stores"]) == len(made["started_from"]["stores"]) == 2
    opened.clear()
    train_stage2(Stage2Request(stores[0], whole, str(world.llm_folder), tmp_path / "one", stage2_config()))
    assert opened == [stores[0]]


def test_a_sweep_is_to_the_bit_what_its_runs_are_alone(stores, tmp_path):
    from speechmapper.config_file import to_plain

    variants = stage1_variants([("config", to_plain(config(2)))], parse_axes(["objective.alpha=5,7"]))
    sweep_stage1(SweepRequest(stores, tmp_path / "sweep", variants))
    for variant in variants:
        train_stage1(Stage1Request(stores, tmp_path / variant.name, variant.config))
        assert same(tmp_path / "sweep" / variant.name, tmp_path / variant.name)
