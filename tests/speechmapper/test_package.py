"""The public names: there, lazy, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

import speechmapper


def test_public_names_are_the_interface():
    assert speechmapper.__all__ == ["Projector", "ProjectorConfig", "SpeechMapper", "Store"]
    assert set(speechmapper.__all__) <= set(dir(speechmapper))


@pytest.mark.parametrize("name", speechmapper.__all__)
def test_each_name_is_found(name):
    assert getattr(speechmapper, name).__name__ == name


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Projektor'"):
        _ = speechmapper.Projektor


def test_importing_the_package_is_cheap():
    code = "import sys, speechmapper; print([n for n in ('torch', 'transformers', 'sm_store') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
