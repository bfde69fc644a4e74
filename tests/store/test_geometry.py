from __future__ import annotations

import numpy as np
import pytest

from sm_store import Geometry
from sm_store.errors import ConfigError


def slow(frames, geometry):
    """Count the positions of each convolution's window, one by one."""
    for kernel, stride, padding in zip(geometry.kernels, geometry.strides, geometry.paddings, strict=True):
        frames = sum(1 for start in range(0, frames + 2 * padding - kernel + 1, stride)) if frames else 0
    return frames


@pytest.mark.parametrize(
    "geometry",
    [Geometry(), Geometry((6, 6), (1, 4), (2, 2)), Geometry((3,), (2,), (0,)), Geometry((8,), (8,), (0,))],
)
def test_counts_windows(geometry):
    frames = np.arange(200)
    expected = [slow(count, geometry) for count in range(200)]
    assert geometry.num_vectors(frames).tolist() == expected
    assert [geometry.num_vectors(count) for count in range(200)] == expected
    assert isinstance(geometry.num_vectors(7), int)


def test_four_seconds():
    assert Geometry().num_vectors(100) == 25


def test_min_frames():
    geometry = Geometry()
    assert geometry.num_vectors(geometry.min_frames()) == 1
    assert geometry.num_vectors(geometry.min_frames() - 1) == 0


def test_never_more_frames_fewer_vectors():
    counts = Geometry().num_vectors(np.arange(5000))
    assert (np.diff(counts) >= 0).all()


def test_json_round_trip():
    geometry = Geometry((5, 4, 3), (2, 2, 1), (0, 1, 2))
    assert Geometry.from_json(geometry.to_json()) == geometry


@pytest.mark.parametrize(
    "arguments",
    [((6,), (2, 2), (2, 2)), ((), (), ()), ((0,), (1,), (0,)), ((1,), (0,), (0,)), ((1,), (1,), (-1,))],
)
def test_impossible_geometries(arguments):
    with pytest.raises(ConfigError, match="geometry needs"):
        Geometry(*arguments)
