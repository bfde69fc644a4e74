from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver

import pytest

from tests.pipeline import llms


@pytest.fixture(scope="session", autouse=True)
def workers_start_soon():
    """The fork server has torch: one process runs all tests, and its first one may need decoders alone."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["sm_pipeline.extraction.unit"])
    forkserver.ensure_running()


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
