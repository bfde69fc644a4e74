"""The folder of a run: made once, not overwritten by another run, and complete once `projector/` is there.

RUN/config.yaml          every setting that was used; can be given as --config
RUN/metrics.jsonl        figures by step (train/log.py)
RUN/checkpoints/         to continue from (train/checkpoint.py)
RUN/lora/                adapters of the LLM, where they are trained (lora.py)
RUN/projector/           the result, replaced as a whole (saved_projector.py)
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from sm_pipeline.devices import choose_device, mixed_precision
from sm_store.durable import write_file
from sm_store.errors import ConfigError
from sm_store.extras import not_installed
from sm_store.paths import STORE
from speechmapper.config import RunConfig, Stage1Config, Stage2Config
from speechmapper.config_file import STAGES, to_plain, to_yaml
from speechmapper.loader.data import TrainingData
from speechmapper.loader.stores import stores_identity
from speechmapper.projector import WHERE_ABSENT, Projector
from speechmapper.saved_projector import PROJECTOR_FOLDER
from speechmapper.train.checkpoint import list_checkpoints
from speechmapper.train.log import METRICS_FILE

# What an identity means that lacks these settings, because it was written before they were choices.
OBJECTIVE_ABSENT = {
    "centered_cosine_weight": None,
    "commitment_weight": None,
    "vocabulary": "all",
    "kd_weight": None,
    "kd_layers": 1,
    "llm": None,
}
CONFIG_FILE = "config.yaml"
TRACKER_FOLDER = "tensorboard"
# How long processes wait for each other. The main one validates alone, which may take long; torch's 10 or 30 minutes
# would end the run. A process that died is noticed by its launcher and its peers, not by this.
PATIENCE = timedelta(days=1)


def start_run(out: Path, config: Stage1Config | Stage2Config, resume: bool, accelerator: Accelerator) -> None:
    """Make the run's folder and write the resolved configuration into it; the main process does it for all.

    Raises:
        ConfigError: in every process, where there is a run already and `resume` is not set, a store is there, or the
            folder cannot be made.
    """
    refusal = ""
    if accelerator.is_main_process:
        try:
            _start_folder(out, config, resume)
        except ConfigError as error:
            refusal = str(error)
    refusal = broadcast_text(accelerator, refusal)
    if refusal:
        raise ConfigError(refusal)


def broadcast_text(accelerator: Accelerator, text: str) -> str:
    """The main process's `text`, in every process."""
    if accelerator.num_processes == 1:
        return text
    from accelerate.utils import broadcast_object_list

    texts: list[str] = broadcast_object_list([text])
    return texts[0]


def _start_folder(out: Path, config: Stage1Config | Stage2Config, resume: bool) -> None:
    used = bool(list_checkpoints(out)) or (out / METRICS_FILE).exists() or (out / PROJECTOR_FOLDER).exists()
    if used and not resume:
        raise ConfigError(f"--out {out}: a run is there; continue it with --resume, or name another folder")
    if (out / STORE).exists():
        raise ConfigError(f"--out {out}: a store is there; name another folder for the run")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made ({error.strerror}); name a folder you can write to") from error
    if not list_checkpoints(out):  # else `Run.resume` writes it, once the checkpoint is known to belong to it
        write_config(out, config)


def write_config(out: Path, config: Stage1Config | Stage2Config) -> None:
    """Write every setting to the run's config.yaml."""
    stage = next(name for name, kind in STAGES.items() if isinstance(config, kind))
    write_file(out / CONFIG_FILE, to_yaml(stage, config).encode())


def open_accelerator(run: RunConfig, out: Path) -> Accelerator:
    """Accelerate with this run's precision and trackers; one process or many.

    Raises:
        ConfigError: a tracker that is not installed, or a precision that the device does not support.
    """
    require_trackers(run)
    device = choose_device(run.device)
    precision = mixed_precision(run.precision, device)
    folders = ProjectConfiguration(project_dir=str(out), logging_dir=str(out / TRACKER_FOLDER))
    return Accelerator(
        mixed_precision=precision,
        cpu=device.type == "cpu",
        log_with=list(run.trackers) or None,
        project_config=folders,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def require_trackers(run: RunConfig) -> None:
    """Check that the packages of the trackers are installed. Raises ConfigError."""
    missing = [name for name in run.trackers if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"run.trackers: {not_installed(missing[0])}")


def print_message(accelerator: Accelerator, message: str) -> None:
    """Print a line to stderr (stdout is for `--json`), in the main process only."""
    if accelerator.is_main_process:
        sys.stderr.write(message + "\n")


def run_identity(config: Stage1Config | Stage2Config, projector: Projector, training: TrainingData) -> dict[str, Any]:
    """What a checkpoint belongs to, as JSON values: store, target set, model, data order, objective and optimizer.

    A run is not resumed with another identity. Its length (`schedule`) and its logging (`run`) may change; the
    utterances of the store may not: a store that has grown since has other epochs. A choice that older identities
    lack is left out where it is what they mean by lacking it.
    """
    sizes = projector.config.to_diff_dict()
    for name in ("trained_for", "transformers_version"):
        sizes.pop(name, None)
    sizes = {name: value for name, value in sizes.items() if name not in WHERE_ABSENT or value != WHERE_ABSENT[name]}
    plain = to_plain(config)
    data = {key: value for key, value in plain["data"].items() if key != "prefetch"}
    if config.data.bucket_utterances == 1:
        data.pop("bucket_utterances")
    return {
        **stores_identity(training.store),
        "target": training.spec.to_json(),
        "model": {"parameters": projector.num_parameters(), **sizes},
        "data": {
            **data,
            "split": training.split,
            "seed": config.seed,
            "utterances": len(training.order.indices),
            "utterances_sha256": training.order.sha256(),
        },
        "objective": {
            name: value
            for name, value in plain["objective"].items()
            if name not in OBJECTIVE_ABSENT or value != OBJECTIVE_ABSENT[name]
        },
        "optimizer": plain["optimizer"],
    }
