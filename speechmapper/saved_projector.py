"""A projector on disk, and what it was trained for.

    save_projector(run, projector)       RUN/projector/: config.json, model.safetensors, its checksum, README.md
    projector = load_projector(run)      of a run folder, or of a projector folder itself; in eval mode
    require_features(projector, store.identity, "store S")      refuses features of another encoder

`config.json` says under `trained_for` what decides the meaning of the projector's input and output: encoder, layer,
averaging, front end, normaliser, the target set with its LLM, for stage 2 the LLM and the task, and how far training
went. Whoever uses the projector elsewhere compares that with what it is given.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch

from sm_pipeline.models.quiet import quiet_transformers
from sm_store import Identity, Store, TargetSpec
from sm_store.durable import Written, checksum, staged
from sm_store.errors import ModelError, StoreError
from sm_store.identity import FEATURE_FIELDS, diff_json, feature_meaning, require_same
from sm_store.version import __version__
from speechmapper.projector import Projector, ProjectorConfig

CHECKPOINT_FOLDER = "checkpoints"
PROJECTOR_FOLDER = "projector"
PACKAGES = ("torch", "transformers", "accelerate", "numpy")
WEIGHTS_FILE, CHECKSUM_FILE = "model.safetensors", "checksums.json"
TARGET_FIELDS = ("table_sha256", "pad_id")  # what decides a vector's meaning
MOST_NAMES = 5  # tensors named in a message


def save_projector(out: Path, projector: Projector, training: Mapping[str, Any] | None = None) -> Path:
    """Write `out/projector`, replacing the one before as a whole; returns its folder.

    Args:
        training: what is recorded of the training under `trained_for`: steps, steps_planned, finished, seed, ...
    """
    from safetensors.torch import save

    folder = out / PROJECTOR_FOLDER
    projector.config.architectures = [type(projector).__name__]
    if training is not None:
        projector.config.trained_for = {**projector.config.trained_for, "training": dict(training)}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    with staged(folder) as stage:
        stage.add("config.json", projector.config.to_json_string().encode())
        stage.add(WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
        stage.add("README.md", model_card(projector).encode())
        written = stage.files[WEIGHTS_FILE]
        stage.add(CHECKSUM_FILE, json.dumps({WEIGHTS_FILE: [written.size, written.crc32c]}).encode())
    return folder


def projector_folder(run: Path) -> Path:
    """Where the projector of a run folder, or of a projector folder itself, is. Raises ModelError: none there."""
    folder = run / PROJECTOR_FOLDER if (run / PROJECTOR_FOLDER).is_dir() else run
    if not (folder / "config.json").is_file():
        hint = "; its training has not ended: continue it with --resume" if (run / CHECKPOINT_FOLDER).is_dir() else ""
        raise ModelError(f"{run}: no projector/config.json there{hint or '; give the folder of a run'}")
    return folder


def load_config(run: Path) -> ProjectorConfig:
    """The config of a run's projector, without its weights. Raises ModelError: nothing there, or no projector's."""
    folder = projector_folder(run)
    try:
        config: ProjectorConfig = ProjectorConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder}: not a projector ({' '.join(str(error).split())[:200]})") from error
    return config


def load_projector(run: Path) -> Projector:
    """The projector of a run folder, or of a projector folder itself, in eval mode.

    Raises:
        ModelError: nothing there, or not a projector.
    """
    folder = projector_folder(run)
    _check_bytes(folder)
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            projector, loaded = Projector.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not a projector ({' '.join(str(error).split())[:200]})") from error
    if loaded["missing_keys"]:
        names = ", ".join(sorted(loaded["missing_keys"])[:MOST_NAMES])
        raise ModelError(f"{folder}: {WEIGHTS_FILE} lacks {names}; the file is not complete, save the projector again")
    if loaded["unexpected_keys"]:
        names = ", ".join(sorted(loaded["unexpected_keys"])[:MOST_NAMES])
        sys.stderr.write(f"{folder}: {WEIGHTS_FILE} has tensors that this projector does not use: {names}\n")
    training = projector.config.trained_for.get("training", {})
    if not training.get("finished", True):
        sys.stderr.write(
            f"{run}: its training stopped after {training['steps']} of {training['steps_planned']} steps; "
            "continue it with --resume\n"
        )
    return projector.eval()


def _check_bytes(folder: Path) -> None:
    """Compare the weights with the checksum that `save_projector` wrote beside them, if it did."""
    path = folder / CHECKSUM_FILE
    if not path.is_file():  # saved by `save_pretrained`, or by an earlier release
        return
    try:
        size, crc32c = json.loads(path.read_bytes())[WEIGHTS_FILE]
        Written(size, crc32c).require(folder / WEIGHTS_FILE, mapped=True)
    except (OSError, ValueError, KeyError, TypeError, StoreError) as error:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: its bytes are not those that were saved ({CHECKSUM_FILE}); copy the folder "
            f"again, or remove {CHECKSUM_FILE} if the weights were changed on purpose"
        ) from error


def weights_crc32c(projector: Projector) -> int:
    """Checksum of all weights, in the order of their names."""
    total = 0
    for _, tensor in sorted(projector.state_dict().items()):
        total = checksum(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), total)
    return total


def trained_for(stage: str, store: Identity, spec: TargetSpec, **more: Any) -> dict[str, Any]:
    """What a projector is for, as JSON values: kept in its config."""
    features = store.to_json()
    return {
        "stage": stage,
        **{name: features[name] for name in (*FEATURE_FIELDS, "normalizer")},
        "target": spec.to_json(),
        **more,
        "packages": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this project and of the libraries that decide its numbers."""
    return {"speechmapper": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}}


def require_features(projector: Projector, store: Identity, what: str) -> None:
    """Raises IdentityMismatch where the projector was trained on other features; `what` names the store."""
    require_same(
        diff_json(feature_meaning(store.to_json()), feature_meaning(projector.config.trained_for)),
        f"{what} and the projector",
    )


def require_target(projector: Projector, spec: TargetSpec, what: str) -> None:
    """Check that a target set has the embeddings and the pad token that a projector was trained with.

    Raises:
        IdentityMismatch: another LLM's table, or another pad token; `what` names the target set.
    """
    trained = projector.config.trained_for.get("target", {})
    mine = {name: getattr(spec, name) for name in TARGET_FIELDS}
    theirs = {name: trained.get(name) for name in TARGET_FIELDS}
    require_same(diff_json(mine, theirs), f"{what} and the projector")


def matching_target(store: Store, projector: Projector) -> str | None:
    """The store's target set with the embeddings the projector was trained on, whatever its name, or None."""
    trained = projector.config.trained_for.get("target", {})
    for name in store.target_names:
        spec = store.targets(name).spec
        if all(getattr(spec, field) == trained.get(field) for field in TARGET_FIELDS):
            return name
    return None


def model_card(projector: Projector) -> str:
    """README.md of a projector."""
    made: Mapping[str, Any] = projector.config.trained_for
    target, encoder = made.get("target", {}), made.get("encoder", {})
    return f"""---
library_name: speechmapper
tags: [speech, projector, llm]
---
# SpeechMapper projector

Maps features of the speech encoder `{encoder.get("id")}` (layer {encoder.get("layer")},
{made.get("frame_rate")} frames a second) to input embeddings of `{target.get("llm")}`:
{projector.num_parameters():,} parameters, after {made.get("stage")}{f" on {made['task']}" if "task" in made else ""}{
        f", from {len(made['stores'])} stores" if "stores" in made else ""
    }.

```python
from pathlib import Path

from speechmapper import Projector

projector = Projector.from_pretrained(Path("."))
# features (B, T, {projector.config.input_size}), frames (B,) -> vectors (B, U, {
        projector.config.output_size
    }), lengths (B,)
vectors, lengths = projector(features, frames)
```

The method is SpeechMapper (arXiv 2601.20417). `config.json` holds under `trained_for` everything that decides
what features mean here; `speechmapper transcribe` and `sm-eval` refuse others.
"""


@contextmanager
def recorded_model(name: str, what: str, remedy: str) -> Iterator[None]:
    """While a model is looked for that a run has recorded: an error does not blame a flag that was not given.

    Args:
        what: what the run uses it for, in the message. remedy: how to say where the model is now.

    Raises:
        ModelError: in place of one raised in the block.
    """
    try:
        yield
    except ModelError as error:
        reason = re.sub(r"^--[a-z]+ .*?: ", "", str(error))
        raise ModelError(f"{name}: {what} cannot be loaded ({reason}); {remedy}") from error


def model_name(source: Mapping[str, Any]) -> str:
    """A recorded model as an argument: `id@revision`, or the id of a folder or preset, with an encoder's options."""
    name = f"{source['id']}@{source['revision']}" if source.get("revision") else str(source["id"])
    return f"{name}?{urlencode(source['options'])}" if source.get("options") else name
