from __future__ import annotations

import pytest

from tests.pipeline.encoders import families


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A small checkpoint of each kind, by name. Read only."""
    root = tmp_path_factory.mktemp("encoders")
    return {name: families.make(name, root / name) for name in families.KINDS}


@pytest.fixture(scope="session", params=list(families.KINDS))
def made(request, checkpoints):
    """One of them at a time."""
    return checkpoints[request.param]
