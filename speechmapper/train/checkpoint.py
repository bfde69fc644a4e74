"""Checkpoints: everything a run needs to continue, as safetensors and JSON, complete or absent.

    RUN/checkpoints/step-00001000/
        model.safetensors        weights: `projector.`, the `objective.` and, where one is kept, their `average.`
        optimizer.safetensors    AdamW's moments, named INDEX.KEY by parameter order
        state.json               step, counters, the run's identity, size and crc32c of both files

A checkpoint is a folder written under a temporary name, synced and renamed (`sm_store.durable`); older ones
are removed only after that. The order of the data and random numbers are functions of the step, so there is no
loader, scheduler or generator state. Every byte is checked before use, and a checkpoint of another store, target set
or model is refused with the differences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sm_store.durable import Written, checksum, remove, staged
from sm_store.errors import StoreCorrupt, StoreFormatError
from sm_store.identity import canonical, diff_json, require_same
from speechmapper.loader.stores import require_same_stores
from speechmapper.saved_projector import CHECKPOINT_FOLDER

FORMAT_VERSION = 2
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One point of a run.

    Attributes:
        step: optimizer steps done.
        identity: what the run trains on and how (JSON values): store, target set, model, data order, ...
        model: weights by name; optimizer: AdamW's moments, named `INDEX.KEY` by parameter order.
        counters: the rest of the state (skipped steps, ends of epochs, ...); JSON values.
    """

    step: int
    identity: Mapping[str, Any]
    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    counters: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, then remove all but the `keep` newest; returns its folder."""
    from safetensors.torch import save

    folder = run / CHECKPOINT_FOLDER / f"step-{checkpoint.step:08d}"
    with staged(folder) as stage:
        stage.add(MODEL_FILE, save(_on_host(checkpoint.model), metadata={"format": "pt"}))
        stage.add(OPTIMIZER_FILE, save(_on_host(checkpoint.optimizer)))
        state = {
            "format": FORMAT_VERSION,
            "step": checkpoint.step,
            "identity": dict(checkpoint.identity),
            "counters": dict(checkpoint.counters),
            "files": {name: [written.size, written.crc32c] for name, written in stage.files.items()},
        }
        state["crc32c"] = checksum(canonical(state))
        stage.add(STATE_FILE, json.dumps(state, indent=1, sort_keys=True).encode())
    for old in list_checkpoints(run)[:-keep]:
        remove(old)
    return folder


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path for path in (run / CHECKPOINT_FOLDER).glob("step-*") if path.is_dir())


def load_newest(run: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The newest checkpoint of a run, or None where there is none yet.

    Raises:
        IdentityMismatch: the run's identity is another than `identity`; carries the differences.
        StoreCorrupt: a byte is wrong; names the file. To continue from the checkpoint before it, remove the folder.
        StoreFormatError: of another format version.
    """
    folders = list_checkpoints(run)
    return read_checkpoint(folders[-1], identity) if folders else None


def newest_progress(run: Path, identity: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]] | None:
    """Step and counters of the newest checkpoint, without reading its tensors; else as `load_newest`."""
    folders = list_checkpoints(run)
    if not folders:
        return None
    state = _read_state(folders[-1], identity)
    return state["step"], state["counters"]


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read and check one checkpoint; raises as `load_newest`."""
    state = _read_state(folder, identity)
    files = {name: Written(*sizes) for name, sizes in state["files"].items()}
    return Checkpoint(
        step=state["step"],
        identity=state["identity"],
        model=_read_tensors(folder / MODEL_FILE, files),
        optimizer=_read_tensors(folder / OPTIMIZER_FILE, files),
        counters=state["counters"],
    )


def _read_state(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / STATE_FILE
    remedy = f"remove {folder} to continue from the checkpoint before it"
    try:
        state = json.loads(path.read_bytes())
        stored = state.pop("crc32c")
        version = state["format"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreCorrupt(f"{path}: not readable ({error}); {remedy}") from error
    if version != FORMAT_VERSION:
        raise StoreFormatError(f"{path}: checkpoint format {version!r}; this release reads {FORMAT_VERSION}")
    if checksum(canonical(state)) != stored:
        raise StoreCorrupt(f"{path}: does not match its checksum; {remedy}")
    require_same_stores(state["identity"], identity, f"checkpoint {folder}")
    require_same(diff_json(state["identity"], dict(identity)), f"checkpoint {folder}")
    return state


def _read_tensors(path: Path, files: Mapping[str, Written]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    remedy = f"remove {path.parent} to continue from the checkpoint before it"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreCorrupt(f"{path}: {error.strerror}; {remedy}") from error
    expected = files[path.name]
    if len(data) != expected.size or checksum(data) != expected.crc32c:
        raise StoreCorrupt(f"{path}: does not match its checksum; {remedy}")
    return load(data)


def _on_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
