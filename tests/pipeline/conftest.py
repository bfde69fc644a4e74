from __future__ import annotations

import pytest

from tests.pipeline import llms


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    """A model folder. Read only."""
    return llms.save(tmp_path_factory.mktemp("models") / "tiny-llm")


@pytest.fixture(params=["zarr", "webdataset"])
def layout(request):
    return request.param


@pytest.fixture(params=["dense", "table"])
def kind(request):
    return request.param
