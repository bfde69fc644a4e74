"""Fixtures every package's tests may use."""

from __future__ import annotations

import pytest

from tests import speech


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """Manifest of eight utterances of about two seconds: four formats, four rates, three splits. Read only."""
    return speech.write_corpus(tmp_path_factory.mktemp("corpus"))
