"""A run's folder: started once, refused twice, and ended with a projector that can be used elsewhere.

    RUN/config.yaml          every setting that was used; itself a --config file
    RUN/metrics.jsonl        figures by step (train/report.py)
    RUN/checkpoints/         to go on from (train/checkpoint.py)
    RUN/projector/           config.json, model.safetensors, README.md: the result, replaced as a whole

`projector/config.json` says what the projector was trained for (`trained_for`): encoder, layer, averaging,
front end, normaliser, the target set with its LLM, and for stage 2 the LLM and the task. Whoever uses it
elsewhere compares that with what it is given.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from sm_pipeline.models.quiet import quiet_transformers
from sm_store import Identity, TargetSpec
from sm_store.document import STORE
from sm_store.durable import staged, write_file
from sm_store.errors import ConfigError, ModelError
from sm_store.identity import diff_json, require_same
from sm_store.version import __version__
from speechmapper.config import RunConfig, Stage1Config, Stage2Config
from speechmapper.config_file import to_plain, to_yaml
from speechmapper.loader.data import TrainingData
from speechmapper.projector import Projector
from speechmapper.train.checkpoint import list_checkpoints
from speechmapper.train.log import METRICS_FILE

CONFIG_FILE = "config.yaml"
PROJECTOR_FOLDER = "projector"
TRACKER_FOLDER = "tensorboard"
PACKAGES = ("torch", "transformers", "accelerate", "numpy")
FEATURE_FIELDS = (
    "encoder",
    "average",
    "frame_rate",
    "front_end",
    "normalizer",
)  # what decides a feature's meaning


def start_run(
    out: Path, stage: str, config: Stage1Config | Stage2Config, resume: bool, accelerator: Accelerator
) -> None:
    """Make the run's folder and write the resolved configuration into it: the main process, for all.

    Raises:
        ConfigError: there is a run already and `resume` is not set, or the folder cannot be made; in every process.
    """
    refusal = ""
    if accelerator.is_main_process:
        try:
            _start_folder(out, stage, config, resume)
        except ConfigError as error:
            refusal = str(error)
    refusal = told_by_main(accelerator, refusal)
    if refusal:
        raise ConfigError(refusal)


def told_by_main(accelerator: Accelerator, words: str) -> str:
    """What the main process says, in every process."""
    if accelerator.num_processes == 1:
        return words
    from accelerate.utils import broadcast_object_list

    said: list[str] = broadcast_object_list([words])
    return said[0]


def _start_folder(out: Path, stage: str, config: Stage1Config | Stage2Config, resume: bool) -> None:
    used = bool(list_checkpoints(out)) or (out / METRICS_FILE).exists() or (out / PROJECTOR_FOLDER).exists()
    if used and not resume:
        raise ConfigError(f"--out {out}: a run is there; continue it with --resume, or name another folder")
    if (out / STORE).exists():
        raise ConfigError(f"--out {out}: a store is there; name another folder for the run")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made ({error.strerror}); name a folder you can write to") from error
    write_file(out / CONFIG_FILE, to_yaml(stage, config).encode())


def open_accelerator(run: RunConfig, out: Path) -> Accelerator:
    """Accelerate with this run's precision and trackers; one process or many.

    Raises:
        ConfigError: a tracker that is not installed, or a precision that the device does not have.
    """
    import torch

    missing = [name for name in run.trackers if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"run.trackers {', '.join(missing)}: not installed; pip install {' '.join(missing)}")
    cpu = run.device == "cpu" or not torch.cuda.is_available()
    precision = {"auto": "no" if cpu else "bf16", "fp32": "no", "bf16": "bf16", "fp16": "fp16"}[run.precision]
    if cpu and precision == "fp16":
        raise ConfigError("run.precision fp16 needs a GPU; use fp32 or bf16")
    folders = ProjectConfiguration(project_dir=str(out), logging_dir=str(out / TRACKER_FOLDER))
    return Accelerator(mixed_precision=precision, cpu=cpu, log_with=list(run.trackers) or None, project_config=folders)


def tell(accelerator: Accelerator, message: str) -> None:
    """A line for the log (stderr: stdout is for `--json`), from the main process."""
    if accelerator.is_main_process:
        sys.stderr.write(message + "\n")


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


def run_identity(config: Stage1Config | Stage2Config, projector: Projector, training: TrainingData) -> dict[str, Any]:
    """What a checkpoint belongs to: another store, target set, model, data order, objective or optimizer is refused.

    Its length (`schedule`) and what it tells (`run`) may change; what is in the store may not: a store that grew since
    then has other epochs.
    """
    sizes = projector.config.to_diff_dict()
    for name in ("trained_for", "transformers_version"):
        sizes.pop(name, None)
    everything = training.store.identity.to_json()
    everything.pop("packages")
    plain = to_plain(config)
    data = {key: value for key, value in plain["data"].items() if key != "prefetch"}
    return {
        "store": everything,
        "target": training.spec.to_json(),
        "model": {"parameters": projector.num_parameters(), **sizes},
        "data": {
            **data,
            "split": training.split,
            "seed": config.seed,
            "utterances": len(training.order.indices),
            "utterances_sha256": training.order.sha256(),
        },
        "objective": plain["objective"],
        "optimizer": plain["optimizer"],
    }


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
        hint = "; its training has not ended: go on with --resume" if list_checkpoints(run) else ""
        raise ModelError(f"{run}: no projector/config.json there{hint or '; give the folder of a run'}")
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            return Projector.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not a projector ({' '.join(str(error).split())[:200]})") from error


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
