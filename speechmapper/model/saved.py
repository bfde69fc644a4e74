"""A model as one folder that stands alone, on disk and on the Hub.

    FOLDER/projector/                                          its weights; what it was made for, prompts included
    FOLDER/lora/                                               the run's adapter of the LLM, where it has one
    FOLDER/tokenizer/                                          of the LLM
    FOLDER/encoder/, FOLDER/llm/                               their files, where they are included
    FOLDER/README.md                                           model card

    save_model(Path("runs/stage2"), Path("model"), include=("llm",))
    find_model("owner/name@v1")       the folder of a run, of a saved model, or of one fetched from the Hub
    use_included(config, folder)      an encoder or LLM in the folder takes the place of the one that was recorded

Weights are safetensors only; an LLM that is a GGUF is written in its full precision.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sm_pipeline.encoders import split_options
from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.source import ENCODER_PRESETS, SMALL_FILES, ModelSource, resolve_model
from sm_pipeline.models.tensors import weight_files
from sm_pipeline.models.tokenizer import load_tokenizer
from sm_store.durable import checksum, staged
from sm_store.errors import InputError, ModelError
from speechmapper.lora import LORA_FOLDER
from speechmapper.model.card import model_card
from speechmapper.projector import ProjectorConfig
from speechmapper.saved_projector import (
    CHECKSUM_FILE,
    PROJECTOR_FOLDER,
    WEIGHTS_FILE,
    load_config,
    model_name,
    projector_folder,
)
from speechmapper.tasks import TASKS

PARTS = ("encoder", "llm")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FETCHED = [*SMALL_FILES, "*.safetensors", "*.md"]


def find_model(name: str | Path) -> Path:
    """The folder of a run or saved model; one of the Hub is fetched into its local cache.

    Raises:
        ModelError: there is none, or the Hub cannot be reached.
    """
    path = Path(name).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(str(name)) or str(name).startswith("."):
        projector_folder(path)
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    hub_id, _, revision = str(name).partition("@")
    try:
        folder = Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=_FETCHED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name}: no such folder, and not fetched from the Hub ({reason[:160]}); give the folder of a run, or "
            "check name and network"
        ) from error
    projector_folder(folder)
    return folder


def use_included(config: ProjectorConfig, folder: Path) -> None:
    """Let a config name the encoder and the LLM that are in the folder, where they are."""
    made = config.trained_for
    for part, record in (("encoder", made.get("encoder")), ("llm", made.get("llm"))):
        if record and (folder / part / "config.json").is_file():
            record |= {"id": str(folder / part), "revision": None}
    if made.get("target") and (folder / "llm" / "config.json").is_file():
        made["target"] |= {"llm": str(folder / "llm"), "revision": None}


def save_model(run: Path, out: Path, include: Sequence[str] = ()) -> Path:
    """Write a run as a folder that stands alone; returns it.

    Args:
        include: whose files are copied besides: `encoder`, `llm`; the others are loaded by their names. An encoder that
            is a preset has no files.

    Raises:
        InputError: something is at `out`, or an unknown part. ModelError: an encoder or LLM that is not there, or whose
            weights are not safetensors.
    """
    unknown = [part for part in include if part not in PARTS]
    if unknown or isinstance(include, str):
        raise InputError(f"include {include!r}: give a list of {', '.join(PARTS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: something is there; name a new folder")
    config = load_config(run)
    made = config.trained_for
    if not made:
        raise ModelError(f"{run}: its config.json lacks trained_for, what it was made for; give the folder of a run")
    recorded = {name: task.as_trained(made).recorded() for name, task in TASKS.items()}
    made["tasks"] = {**recorded, **made.get("tasks", {})}
    used = ProjectorConfig.from_dict(config.to_dict())
    use_included(used, run)
    llm = resolve_model(_llm_name(used.trained_for), "llm", weights="llm" in include)
    copied = [part for part in PARTS if part in include]
    with staged(out) as stage:
        weights = (projector_folder(run) / WEIGHTS_FILE).read_bytes()
        stage.add(f"{PROJECTOR_FOLDER}/config.json", config.to_json_string().encode())
        stage.add(f"{PROJECTOR_FOLDER}/{WEIGHTS_FILE}", weights)
        sums = json.dumps({WEIGHTS_FILE: [len(weights), checksum(weights)]}).encode()
        stage.add(f"{PROJECTOR_FOLDER}/{CHECKSUM_FILE}", sums)
        adapter = projector_folder(run).parent / LORA_FOLDER
        if made.get("training", {}).get("lora") is not None:
            shutil.copytree(adapter, stage.path / LORA_FOLDER)
        load_tokenizer(llm).save_pretrained(stage.path / "tokenizer")
        if "llm" in copied:
            _copy_llm(llm, stage.path / "llm")
        if "encoder" in copied and not _copy_encoder(used.trained_for["encoder"], stage.path / "encoder"):
            copied.remove("encoder")
        stage.add("README.md", model_card(made, _measured(run), tuple(copied)).encode())
    return out


def push_model(run: Path, repository: str, include: Sequence[str], private: bool, token: str | None) -> str:
    """Upload what `save_model` writes to a repository of the Hub, made where it is not there; returns its address."""
    import tempfile

    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(run, Path(scratch) / "model", include)
        api = HfApi(token=token)
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="SpeechMapper model")
    return str(address)


def _llm_name(made: dict[str, Any]) -> str:
    """The LLM of a run as a model argument: that it was tuned with, else that whose table it was trained for."""
    target = made["target"]
    return model_name(made.get("llm") or {"id": target["llm"], "revision": target["revision"]})


def _copy_llm(source: ModelSource, out: Path) -> None:
    if source.gguf_file is None:
        _copy(source.folder, out, f"--llm {source.id}")
        return
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(source.folder, gguf_file=source.gguf_file, local_files_only=True)
        model.save_pretrained(out)
    load_tokenizer(source).save_pretrained(out)


def _copy_encoder(recorded: dict[str, Any], out: Path) -> bool:
    """Copy an encoder's files; False for a preset, which has none."""
    place, _ = split_options(model_name(recorded))
    if place in ENCODER_PRESETS:
        return False
    source = resolve_model(place, "encoder")
    _copy(source.folder, out, f"--encoder {source.id}")
    return True


def _copy(folder: Path, out: Path, what: str) -> None:
    """Copy the small files and the safetensors of a checkpoint."""
    weights = weight_files(folder)
    missing = [name for name in weights if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{what}: {missing[0]} is not there; only weights as safetensors are saved, convert them first"
        )
    out.mkdir()
    small = {path.name for pattern in SMALL_FILES for path in folder.glob(pattern) if path.is_file()}
    for name in {*small, *weights}:
        shutil.copyfile(folder / name, out / name)


def _measured(run: Path) -> dict[str, dict[str, Any]]:
    """The metrics of evaluations that are in the run's folder, by the folder's name."""
    found = {}
    for path in sorted(run.glob("*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(metrics, dict):
            found[path.parent.name] = metrics
    return found
