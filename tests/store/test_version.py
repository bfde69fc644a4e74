"""The version is written once."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import sm_store
from sm_store import version

ROOT = Path(__file__).parents[2]


def test_the_version_is_a_release_number_and_exported():
    assert re.fullmatch(r"\d+\.\d+\.\d+", version.__version__)
    assert sm_store.__version__ == version.__version__


def test_the_build_reads_it_from_that_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).samefile(version.__file__)
