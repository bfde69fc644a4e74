"""The Python environment that COMET runs in. It is apart from ours, since unbabel-comet 2.2.7 needs older packages than
this project: numpy before 2, transformers before 4.56, setuptools before 82.

    comet_python(None)                 ~/.cache/speechmapper/comet-cpu-3f9a1c02/bin/python, made the first time
    comet_python(Path("/opt/comet"))   that environment's; made there where there is no such folder
    python -m speechmapper.eval.comet_environment FOLDER          makes one ahead of time, as `make comet-env` does

uv makes it where uv is installed, else venv and pip, which takes minutes and about 2 GB of disk (5 GB for a GPU). The
name of the folder in the cache changes with the pinned versions, so that a newer version makes a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sm_pipeline.announce import announced
from sm_store.durable import locked
from sm_store.errors import ConfigError, RunFailed, SpeechMapperError, one_line

PINS = (
    "unbabel-comet==2.2.7",
    "transformers==4.55.4",
    "numpy==1.26.4",
    "setuptools==81.0.0",  # the last with pkg_resources, which COMET imports
    "pytorch-lightning==2.6.6",
)
TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = ((3, 11), (3, 12))  # that numpy 1.26 has wheels for, among those this project runs on
UNFINISHED = ".unfinished"  # a file in an environment while it is made
BUILD_SECONDS = 3600
SHOWN_LINES = 20  # of what a failed program wrote


def comet_python(folder: Path | None, gpu: bool = False) -> Path:
    """The Python of COMET's environment, which is made where it is not there.

    Args:
        folder: of the environment; None: one in the user's cache.
        gpu: whether torch is installed for a GPU.

    Raises:
        RunFailed: it cannot be made; says why. ConfigError: the folder holds something else.
    """
    place = folder or cache_folder() / f"comet-{'gpu' if gpu else 'cpu'}-{pins_sha256()}"
    python = place / "bin" / "python"
    if is_finished(place):
        return python
    require_environment(place)
    for each in (place.parent, cache_folder()):
        each.mkdir(parents=True, exist_ok=True)
    with locked(cache_folder(), place.name, wait=True):
        if not is_finished(place):
            with announced(f"making an environment for COMET in {place} (minutes, and gigabytes)"):
                _make(place, gpu)
    return python


def is_finished(place: Path) -> bool:
    """Whether a folder is an environment that is complete."""
    return (place / "bin" / "python").exists() and not (place / UNFINISHED).exists()


def require_environment(place: Path) -> None:
    """Check that a folder is an environment, or may become one. Raises ConfigError: it holds something else."""
    made_here = (place / "bin" / "python").exists() or (place / UNFINISHED).exists()
    if place.exists() and not made_here and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(
            f"--comet-env {place}: no Python environment (no bin/python in it); name one with unbabel-comet, or a new "
            "folder to make it in"
        )


def cache_folder() -> Path:
    """Where environments are kept: `$XDG_CACHE_HOME/speechmapper`, by default ~/.cache/speechmapper."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechmapper"


def pins_sha256() -> str:
    """Of the versions that are installed and of Python's, 8 hex digits."""
    return hashlib.sha256(" ".join([*PINS, TORCH, *map(str, sys.version_info[:2])]).encode()).hexdigest()[:8]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment variables without those that would put our packages on another Python's path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, **more}


def commands(place: Path, gpu: bool, uv: str | None) -> list[list[str]]:
    """What makes the environment: command lines, one after the other.

    Raises:
        RunFailed: this Python is too new for COMET, and there is no uv to bring another.
    """
    fits = sys.version_info[:2] in PYTHONS
    python = str(place / "bin" / "python")
    if uv is not None:
        wanted = sys.executable if fits else ".".join(map(str, PYTHONS[-1]))
        install = [uv, "pip", "install", "--quiet", "--python", python, "--torch-backend", "auto" if gpu else "cpu"]
        return [[uv, "venv", "--quiet", "--allow-existing", "--python", wanted, str(place)], [*install, TORCH, *PINS]]
    if not fits:
        raise RunFailed(
            f"COMET needs Python {' or '.join('.'.join(map(str, each)) for each in PYTHONS)}; install uv, or name an "
            "environment with unbabel-comet by --comet-env"
        )
    steps = [[sys.executable, "-m", "venv", str(place)]]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if sys.platform == "linux" and not gpu:  # first and alone: no other package is looked for at PyTorch's own index
        steps.append([*install, "--no-deps", "--extra-index-url", CPU_INDEX, "--retries", "1", f"{TORCH}+cpu"])
    return [*steps, [*install, TORCH, *PINS]]


def show_failure(stderr: str) -> str:
    """Write the end of what a failed program wrote on our stderr; returns its last line that is no warning."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    sys.stderr.writelines(f"| {line}\n" for line in lines[-SHOWN_LINES:])
    return next((line for line in reversed(lines) if not line.startswith("WARNING")), "no message")


def _make(place: Path, gpu: bool) -> None:
    """Make the environment; what is left of a failed one is removed."""
    steps = commands(place, gpu, shutil.which("uv"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / UNFINISHED).touch()
    try:
        for step in steps:
            _execute(step)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    (place / UNFINISHED).unlink()


def _execute(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            env=clean_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the environment of COMET was not made within {BUILD_SECONDS} s") from None
    if done.returncode:
        reason = show_failure(done.stderr)
        raise RunFailed(f"the environment of COMET could not be made ({reason})")


def main(folder: str) -> None:
    """Make an environment in a folder and print its Python; an error is one line and exit code 1."""
    from sm_pipeline.devices import choose_device

    try:
        python = comet_python(Path(folder), choose_device("auto").type == "cuda")
    except SpeechMapperError as error:
        sys.exit(f"error: {one_line(error)}")
    sys.stdout.write(f"{python}\n")


if __name__ == "__main__":
    main(sys.argv[1])
