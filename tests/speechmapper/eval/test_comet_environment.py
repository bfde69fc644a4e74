"""The environment of COMET: which commands make it, when, and what is left of one that failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sm_store.errors import ConfigError, RunFailed
from speechmapper.eval import comet_environment as environment
from tests.speechmapper.eval.comet_environments import real_environment


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environment.shutil, "which", lambda _: None)
    return tmp_path / "cache" / "speechmapper"


@pytest.fixture
def steps(monkeypatch):
    """The commands that are executed: the first one makes bin/python, none installs anything."""
    seen = []

    def execute(command):
        seen.append(list(command))
        if "venv" in command:
            python = Path(command[-1], "bin", "python")
            python.parent.mkdir()
            python.symlink_to(sys.executable)

    monkeypatch.setattr(environment, "_execute", execute)
    return seen


def test_it_is_made_once_in_the_users_cache(steps, cache):
    python = environment.comet_python(None)
    assert python == cache / f"comet-cpu-{environment.pins_sha256()}" / "bin" / "python"
    count = len(steps)
    assert environment.comet_python(None) == python and len(steps) == count
    assert environment.comet_python(None, gpu=True) != python
    assert not list(cache.glob("comet-*/.unfinished"))


def test_another_version_is_another_folder(monkeypatch):
    before = environment.pins_sha256()
    monkeypatch.setattr(environment, "TORCH", "torch==9.9")
    assert environment.pins_sha256() != before


def test_pip_takes_the_cpu_build_alone_from_pytorchs_index(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment, "PYTHONS", (sys.version_info[:2],))
    make, torch, rest = environment.commands(Path("/e"), gpu=False, uv=None)
    assert make == [sys.executable, "-m", "venv", "/e"]
    assert torch[0] == "/e/bin/python" and "--no-deps" in torch and torch[-1] == "torch==2.13.0+cpu"
    assert "--extra-index-url" not in rest and {"unbabel-comet==2.2.7", "torch==2.13.0"} < set(rest)
    assert len(environment.commands(Path("/e"), gpu=True, uv=None)) == 2
    for _, install in (environment.commands(Path("/e"), gpu, uv="/bin/uv") for gpu in (False, True)):
        assert install[:3] == ["/bin/uv", "pip", "install"] and "numpy==1.26.4" in install


def test_uv_brings_a_python_that_fits(monkeypatch):
    monkeypatch.setattr(environment, "PYTHONS", ((3, 11), (3, 12)))
    monkeypatch.setattr(environment.sys, "version_info", (3, 14, 0))
    [make, install] = environment.commands(Path("/e"), gpu=False, uv="/bin/uv")
    assert make[make.index("--python") + 1] == "3.12" and install[install.index("--torch-backend") + 1] == "cpu"
    with pytest.raises(RunFailed, match=r"COMET needs Python 3\.11 or 3\.12; install uv"):
        environment.commands(Path("/e"), gpu=False, uv=None)


def test_a_folder_of_the_users_is_made_or_taken_as_it_is(steps, tmp_path):
    place = tmp_path / "new" / "env"
    assert environment.comet_python(place) == place / "bin" / "python" and steps
    steps.clear()
    assert environment.comet_python(place) == place / "bin" / "python" and not steps
    (place / ".unfinished").touch()  # killed while it was made
    environment.comet_python(place)
    assert steps and not (place / ".unfinished").exists()


def test_a_folder_with_something_else_is_left_alone(steps, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(ConfigError, match="no Python environment"):
            environment.comet_python(place)
    assert (tmp_path / "mine" / "thesis.tex").exists() and not steps


def test_what_failed_is_shown_and_removed(monkeypatch, tmp_path, capsys):
    failing = [sys.executable, "-c", "import sys; sys.exit('ERROR: no matching distribution\\nWARNING: old pip')"]
    monkeypatch.setattr(environment, "commands", lambda *_: [failing])
    with pytest.raises(RunFailed, match=r"could not be made \(ERROR: no matching distribution\)"):
        environment.comet_python(tmp_path / "env")
    assert "| WARNING: old pip" in capsys.readouterr().err and not (tmp_path / "env").exists()
    with pytest.raises(SystemExit, match="error: the environment of COMET could not be made"):
        environment.main(str(tmp_path / "env"))


def test_it_takes_no_longer_than_its_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "BUILD_SECONDS", 0.5)
    monkeypatch.setattr(environment, "commands", lambda *_: [[sys.executable, "-c", "import time; time.sleep(60)"]])
    with pytest.raises(RunFailed, match=r"not made within 0\.5 s"):
        environment.comet_python(tmp_path / "env")


def test_the_target_prints_the_python(steps, tmp_path, capsys):
    environment.main(str(tmp_path / "env"))
    assert capsys.readouterr().out == f"{tmp_path / 'env' / 'bin' / 'python'}\n"


def test_our_packages_stay_off_its_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    found = environment.clean_environment(MORE="1")
    assert "PYTHONPATH" not in found and found["MORE"] == "1" and "PATH" in found


def test_the_pins_are_what_is_installed():
    folder = real_environment()
    installed = {path.name.removesuffix(".dist-info") for path in folder.glob("lib/python*/site-packages/*.dist-info")}
    wanted = {pin.replace("==", "-").replace("unbabel-", "unbabel_").replace("h-l", "h_l") for pin in environment.PINS}
    assert wanted <= installed
    assert any(name.startswith(environment.TORCH.replace("==", "-")) for name in installed)


def test_a_failure_without_words(capsys):
    assert environment.show_failure("\n") == "no message"
    assert environment.show_failure("WARNING: a") == "no message"
    assert "| WARNING: a" in capsys.readouterr().err
