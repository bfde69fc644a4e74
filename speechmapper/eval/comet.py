"""COMET of translations (Rei et al. 2022), computed in an environment of its own by a program apart from this one.

    comet_segments(out, predictions, CometRequest("Unbabel/wmt22-comet-da"))
      -> [0.84, 0.91], {"comet_model": "Unbabel/wmt22-comet-da@...", "comet_version": "2.2.7"}

Each prediction has a `source`, a `reference` and an `output`; its score, near 0 to 1, is kept in OUT/comet.jsonl beside
its id. metrics.json has the mean x 100, as papers do.

COMET rewards text that was copied and not translated: sentences left in the source language score 65.7 on average. So
`comet_on_target` counts outputs in another language than the one asked for as 0; read the two together, and beside
`target_language_rate`.

Where it cannot be computed (no network, no environment, no sources, a program that failed), `comet` is the text `not
measured: WHY`, never a number, and stderr has it too. Scores that are kept are used again while neither the model nor
any of the three texts changed; without a request, those that fit every line are.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sm_pipeline.announce import announced
from sm_store.durable import write_file
from sm_store.errors import ConfigError, RunFailed, SpeechMapperError, one_line
from speechmapper.eval.comet_environment import clean_environment, comet_python, require_environment, show_failure
from speechmapper.eval.kept_lines import read_kept

COMET_FILE = "comet.jsonl"
NOT_MEASURED = "not measured"
WORKER = Path(__file__).with_name("comet_worker.py")
HUB_FILES = ("hparams.yaml", "checkpoints/model.ckpt", "LICENSE*")
CHECKPOINT = "checkpoints/model.ckpt"
BATCH = 16  # segments run together; COMET's own default
SECONDS, SECONDS_EACH = 900, 5  # the program may take: to load, and for each segment (two slow CPU cores: about 1 s)
# Checkpoints of COMET are pickle files. These variables of torch decide whether one may hold more than tensors and
# plain values, which would be code that runs when it is loaded.
WEIGHTS_ONLY, NOT_ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True, slots=True)
class CometRequest:
    """What is to score translations.

    Attributes:
        model: a Hub id with `@revision` or without, a folder in COMET's layout, or the .ckpt file in one.
        environment: folder of the Python environment with unbabel-comet; None: one in the user's cache.
        gpu: whether it computes on a GPU.
    """

    model: str
    environment: Path | None = None
    gpu: bool = False


def comet_request(model: str | None, environment: Path | None, gpu: bool | None = None) -> CometRequest | None:
    """The request of `--comet` and `--comet-env`, checked as far as is possible without a network; None: no COMET.

    Args:
        gpu: whether to compute on a GPU; None: where there is one.

    Raises:
        ConfigError: `--comet-env` without `--comet`, no environment there, or no model of that name.
    """
    if model is None:
        if environment is not None:
            raise ConfigError(f"--comet-env {environment}: goes with --comet MODEL")
        return None
    from sm_pipeline.models.source import is_hub_id  # torch: `score` does without

    if environment is not None:
        require_environment(environment)
    if local_checkpoint(model) is None and not is_hub_id(model):
        raise ConfigError(
            f"--comet {model}: no such folder; use a Hub id (Unbabel/wmt22-comet-da), or a folder with hparams.yaml "
            f"and {CHECKPOINT}"
        )
    if gpu is None:
        from sm_pipeline.devices import choose_device

        gpu = choose_device("auto").type == "cuda"
    return CometRequest(model, environment, gpu)


def comet_segments(
    out: Path, predictions: Sequence[Mapping[str, Any]], request: CometRequest | None
) -> tuple[list[float] | None, dict[str, Any]]:
    """The score of each prediction, near 0 to 1.

    Args:
        out: the evaluation's folder. request: None: only scores that are kept there and fit all lines.

    Returns:
        The scores, and what belongs into metrics.json besides their mean: `comet_model` and `comet_version`. Where
        they could not be had, None and `comet` as the text `not measured: WHY`; where there are none, None and nothing.
    """
    try:
        entries = _entries(out, predictions, request)
    except SpeechMapperError as error:
        reason = f"{NOT_MEASURED}: {one_line(error)}"
        sys.stderr.write(f"comet: {reason}\n")
        return None, {"comet": reason}
    if entries is None:
        return None, {}
    made_by = {"comet_model": entries[0]["model"], "comet_version": entries[0]["version"]}
    return [entry["score"] for entry in entries], made_by


def local_checkpoint(model: str) -> Path | None:
    """The checkpoint of a local model; None where the name is no path that exists.

    Raises:
        ConfigError: a folder or file that is not in COMET's layout.
    """
    path = Path(model).expanduser()
    if not path.exists():
        return None
    checkpoint = path / CHECKPOINT if path.is_dir() else path
    hparams = checkpoint.absolute().parents[1] / "hparams.yaml"
    for needed in (checkpoint, hparams):
        if not needed.is_file():
            raise ConfigError(
                f"--comet {model}: no {needed} there; a model of COMET is a folder with hparams.yaml and {CHECKPOINT}"
            )
    return checkpoint.absolute()


def source_of(line: Mapping[str, Any]) -> str:
    """The transcript. A prediction has none of its own where it is the reference: a name that stays as it is."""
    found = line.get("source")
    return str(line["reference"] if found is None else found)


def text_sha256(line: Mapping[str, Any]) -> str:
    """Of the three texts that a score depends on, 12 hex digits."""
    texts = json.dumps([source_of(line), line["output"], line["reference"]])
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def _entries(
    out: Path, lines: Sequence[Mapping[str, Any]], request: CometRequest | None
) -> list[dict[str, Any]] | None:
    """The kept entry of each line, computed first where a request asks for it; None: no request, and not all are kept.

    Raises:
        RunFailed: not computed; says why. ModelError: a model that is not to be had.
    """
    if request is None and not (out / COMET_FILE).exists():
        return None
    if not any(line.get("source") for line in lines):
        if request is None or not lines:
            return None
        raise RunFailed(
            "no prediction has a `source`, the transcript that COMET reads; predict again, from utterances with texts"
        )
    keys = [text_sha256(line) for line in lines]
    kept = read_kept(out / COMET_FILE, {"model": str, "version": str, "sha256": str, "score": float})
    if request is None:
        model = kept[-1]["model"] if kept else ""
        found = {entry["sha256"]: entry for entry in kept if entry["model"] == model}
        return [found[key] for key in keys] if all(key in found for key in keys) else None
    checkpoint, model = _located(request.model)
    found = {entry["sha256"]: entry for entry in kept if entry["model"] == model}
    missing = {key: line for key, line in zip(keys, lines, strict=True) if key not in found}
    if missing:
        scores, version = _computed(checkpoint, list(missing.values()), request)
        for key, score in zip(missing, scores, strict=True):
            found[key] = {"model": model, "version": version, "sha256": key, "score": score}
    entries = [found[key] for key in keys]
    kept_lines = [{"id": line.get("id"), **entry} for line, entry in zip(lines, entries, strict=True)]
    write_file(out / COMET_FILE, "".join(json.dumps(line) + "\n" for line in kept_lines).encode())
    return entries


def _located(model: str) -> tuple[Path, str]:
    """The checkpoint of a model, fetched from the Hub where it is there, and a name that changes with its contents."""
    local = local_checkpoint(model)
    if local is not None:
        state = local.stat()
        changes = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:8]
        return local, f"{local}#{changes}"
    from sm_pipeline.models.source import hub_files

    hub_id, _, revision = model.partition("@")
    folder = hub_files(hub_id, revision or None, "--comet", HUB_FILES)
    if not (folder / CHECKPOINT).is_file():
        raise RunFailed(f"--comet {model}: the Hub's repository has no {CHECKPOINT}")
    return folder / CHECKPOINT, f"{hub_id}@{folder.name}"


def _computed(checkpoint: Path, lines: Sequence[Mapping[str, Any]], request: CometRequest) -> tuple[list[float], str]:
    """The score of each line, and the version of unbabel-comet.

    Raises:
        RunFailed: the program failed, took too long, or gave something else than scores.
    """
    python = comet_python(request.environment, request.gpu)
    segments = [{"src": source_of(line), "mt": line["output"], "ref": line["reference"]} for line in lines]
    limit = SECONDS + SECONDS_EACH * len(segments)
    weights_only = {} if clean_environment().get(NOT_ONLY_WEIGHTS) else {WEIGHTS_ONLY: "1"}
    try:
        with announced(f"COMET of {len(segments):,} segments"):
            done = subprocess.run(
                [python, "-I", WORKER, checkpoint, str(BATCH), str(int(request.gpu))],
                input="".join(json.dumps(segment) + "\n" for segment in segments),
                env=clean_environment(**weights_only),
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=limit,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"COMET gave no scores within {limit} s") from None
    except OSError as error:
        raise RunFailed(f"{python}: cannot be executed ({error.strerror})") from None
    if done.returncode:
        reason = show_failure(done.stderr)
        raise RunFailed(_explained(checkpoint, done.stderr) or f"COMET failed ({reason})")
    return _parsed(done.stdout, len(segments))


def _explained(checkpoint: Path, stderr: str) -> str | None:
    """What to do about a checkpoint that holds more than weights; None for any other failure."""
    if "Weights only load failed" not in stderr:
        return None
    return (
        f"{checkpoint} holds more than tensors and plain values, which could execute code; if you trust where it is "
        f"from, set {NOT_ONLY_WEIGHTS}=1"
    )


def _parsed(stdout: str, count: int) -> tuple[list[float], str]:
    try:
        head, *rest = (json.loads(line) for line in stdout.splitlines())
        scores, version = [float(entry["score"]) for entry in rest], str(head["versions"]["unbabel-comet"])
    except (ValueError, KeyError, TypeError):
        raise RunFailed("COMET gave something else than scores") from None
    if len(scores) != count or not all(score == score and abs(score) < float("inf") for score in scores):
        raise RunFailed(f"COMET gave no finite score for each of {count} segments")
    return scores, version
