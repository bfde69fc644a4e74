from __future__ import annotations

import shutil

import pytest

from tests.store import building


@pytest.fixture
def tmp_path():
    folder = building.fast_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["zarr", "webdataset"])
def layout(request):
    return request.param


@pytest.fixture(params=["dense", "table"])
def kind(request):
    return request.param


@pytest.fixture(params=[None, "zstd:1", "blosc:lz4:5:bitshuffle", "int8"], ids=["raw", "zstd", "blosc", "int8"])
def compression(request):
    return request.param


@pytest.fixture
def store(tmp_path, layout, compression):
    """A store of three shards with a dense target set, in each layout, with each codec."""
    return building.build(tmp_path / "s.store", layout=layout, compression=compression)
