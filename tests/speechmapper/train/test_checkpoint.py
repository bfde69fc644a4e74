"""Checkpoints: complete or absent, checked to the last byte, refused where they do not belong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sm_store.errors import IdentityMismatch, RunFailed, StoreCorrupt, StoreFormatError
from speechmapper.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_newest,
    newest_progress,
    read_checkpoint,
    save_checkpoint,
)

IDENTITY = {"store": {"encoder": {"layer": 24}}, "target": {"llm": "a/b"}, "model": {"parameters": 12}}


def checkpoint(step: int, value: float = 1.0) -> Checkpoint:
    return Checkpoint(
        step=step,
        identity=IDENTITY,
        model={"w": torch.full((3, 2), value), "b": torch.tensor([value], dtype=torch.bfloat16)},
        optimizer={"0.step": torch.tensor(5.0), "0.exp_avg": torch.full((3, 2), -value)},
        counters={"skipped": 2, "scaler": None},
    )


def test_what_is_saved_comes_back(tmp_path):
    save_checkpoint(tmp_path, checkpoint(7, 0.25), keep=2)
    found = load_newest(tmp_path, IDENTITY)
    assert (found.step, found.identity, found.counters) == (7, IDENTITY, {"skipped": 2, "scaler": None})
    assert torch.equal(found.model["w"], torch.full((3, 2), 0.25))
    assert found.model["b"].dtype == torch.bfloat16
    assert torch.equal(found.optimizer["0.exp_avg"], torch.full((3, 2), -0.25))


def test_nothing_there_is_none(tmp_path):
    assert load_newest(tmp_path, IDENTITY) is None


def test_progress_is_read_without_the_tensors(tmp_path):
    assert newest_progress(tmp_path, IDENTITY) is None
    save_checkpoint(tmp_path, checkpoint(5), keep=2)
    folder = save_checkpoint(tmp_path, checkpoint(7), keep=2)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert newest_progress(tmp_path, IDENTITY) == (7, {"skipped": 2, "scaler": None})
    with pytest.raises(IdentityMismatch, match=r"model\.parameters: 12 != 13"):
        newest_progress(tmp_path, {**IDENTITY, "model": {"parameters": 13}})


def test_the_newest_wins_and_old_ones_go(tmp_path):
    for step in (1, 2, 30, 4):
        save_checkpoint(tmp_path, checkpoint(step, step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000030"]
    assert load_newest(tmp_path, IDENTITY).step == 30


def test_old_ones_go_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    """A crash while the new one is being written leaves the old one loadable, and nothing half done in its place."""
    save_checkpoint(tmp_path, checkpoint(1), keep=1)

    def crash(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sm_store.durable.os.rename", crash)
    with pytest.raises(RunFailed, match="no space left on device; free some"):
        save_checkpoint(tmp_path, checkpoint(2), keep=1)
    monkeypatch.undo()
    assert load_newest(tmp_path, IDENTITY).step == 1
    save_checkpoint(tmp_path, checkpoint(2), keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_every_single_flipped_bit_is_noticed(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for position in rng.choice(len(good), min(40, len(good)), replace=False):
            bad = bytearray(good)
            bad[position] ^= 1 << int(rng.integers(8))
            if path.name == "state.json" and _same_json(bytes(bad), good):
                continue  # white space
            path.write_bytes(bytes(bad))
            with pytest.raises((StoreCorrupt, StoreFormatError), match=r"step-00000001"):
                read_checkpoint(folder, IDENTITY)
        path.write_bytes(good)
    assert read_checkpoint(folder, IDENTITY).step == 1


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_missing_and_truncated_files_are_named(tmp_path, name):
    folder = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StoreCorrupt, match=name):
        read_checkpoint(folder, IDENTITY)
    path.unlink()
    with pytest.raises(StoreCorrupt, match=name):
        read_checkpoint(folder, IDENTITY)


def test_a_checkpoint_for_something_else_is_refused_with_the_difference(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1), keep=1)
    other = {**IDENTITY, "store": {"encoder": {"layer": 18}}}
    with pytest.raises(IdentityMismatch, match=r"store\.encoder\.layer: 24 != 18") as error:
        load_newest(tmp_path, other)
    assert "target" not in str(error.value).partition("): ")[2]


def test_another_format_version_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(StoreFormatError, match="format 99"):
        read_checkpoint(folder, IDENTITY)
