"""A projector on disk, and what it was trained for.

    save_projector(run, projector)       RUN/projector/: config.json, model.safetensors, README.md
    projector = load_projector(run)      of a run folder, or of a projector folder itself; in eval mode
    require_features(projector, store.identity, "store S")      refuses features of another encoder

`config.json` says under `trained_for` what decides the meaning of the projector's input and output: encoder, layer,
averaging, front end, normaliser, the target set with its LLM, and for stage 2 the LLM and the task. Whoever uses the
projector elsewhere compares that with what it is given.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sm_pipeline.models.quiet import quiet_transformers
from sm_store import Identity, TargetSpec
from sm_store.durable import staged
from sm_store.errors import ModelError
from sm_store.identity import diff_json, require_same
from sm_store.version import __version__
from speechmapper.projector import Projector

CHECKPOINT_FOLDER = "checkpoints"
PROJECTOR_FOLDER = "projector"


PACKAGES = ("torch", "transformers", "accelerate", "numpy")


FEATURE_FIELDS = (
    "encoder",
    "average",
    "frame_rate",
    "front_end",
    "normalizer",
)  # what decides a feature's meaning


def save_projector(out: Path, projector: Projector) -> Path:
    """Write `out/projector`, replacing the one before as a whole; returns its folder."""
    from safetensors.torch import save

    folder = out / PROJECTOR_FOLDER
    projector.config.architectures = [type(projector).__name__]
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    with staged(folder) as stage:
        stage.add("config.json", projector.config.to_json_string().encode())
        stage.add("model.safetensors", save(weights, metadata={"format": "pt"}))
        stage.add("README.md", model_card(projector).encode())
    return folder


def load_projector(run: Path) -> Projector:
    """The projector of a run folder, or of a projector folder itself, in eval mode.

    Raises:
        ModelError: nothing there, or not a projector.
    """
    folder = run / PROJECTOR_FOLDER if (run / PROJECTOR_FOLDER).is_dir() else run
    if not (folder / "config.json").is_file():
        hint = "; its training has not ended: go on with --resume" if (run / CHECKPOINT_FOLDER).is_dir() else ""
        raise ModelError(f"{run}: no projector/config.json there{hint or '; give the folder of a run'}")
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            return Projector.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not a projector ({' '.join(str(error).split())[:200]})") from error


def trained_for(stage: str, store: Identity, spec: TargetSpec, **more: Any) -> dict[str, Any]:
    """What a projector is for, as JSON values: kept in its config."""
    features = store.to_json()
    return {
        "stage": stage,
        **{name: features[name] for name in FEATURE_FIELDS},
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


def feature_meaning(made: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the meaning of features, out of an identity; not the precision they were computed in."""
    meaning = {name: made.get(name) for name in FEATURE_FIELDS}
    encoder = dict(meaning["encoder"] or {})
    encoder.pop("compute_dtype", None)
    return {**meaning, "encoder": encoder}


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
{projector.num_parameters():,} parameters, after {made.get("stage")}{f" on {made['task']}" if "task" in made else ""}.

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


def model_name(source: Mapping[str, Any]) -> str:
    """A recorded model as an argument: `id@revision`, or the id of a folder or preset, with an encoder's options."""
    name = f"{source['id']}@{source['revision']}" if source.get("revision") else str(source["id"])
    return f"{name}?{urlencode(source['options'])}" if source.get("options") else name
