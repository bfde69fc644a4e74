"""How many projector vectors come out of how many feature frames: the only copy of the formula.

Two strided convolutions (method: kernel 6, stride 2, padding 2 each) take T frames at 25 Hz to U vectors at
6.25 Hz. Extraction pads targets to U, the loader budgets by it, the projector masks by it.

    T = 100 frames (4 s)  ->  floor((100 + 4 - 6) / 2) + 1 = 50  ->  floor((50 + 4 - 6) / 2) + 1 = 25 vectors
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from sm_store.errors import ConfigError

_RULE = "geometry needs equally many kernels, strides and paddings, all positive (paddings may be 0)"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The convolutions that decide the output length; one entry per convolution, in order."""

    kernels: tuple[int, ...] = (6, 6)
    strides: tuple[int, ...] = (2, 2)
    paddings: tuple[int, ...] = (2, 2)

    def __post_init__(self) -> None:
        same = len(self.kernels) == len(self.strides) == len(self.paddings) > 0
        if not same or min(self.kernels + self.strides) < 1 or min(self.paddings) < 0:
            raise ConfigError(f"{_RULE}; got {self.kernels}, {self.strides}, {self.paddings}")

    @overload
    def num_vectors(self, num_frames: int) -> int: ...
    @overload
    def num_vectors(self, num_frames: np.ndarray) -> np.ndarray: ...
    def num_vectors(self, num_frames: int | np.ndarray) -> int | np.ndarray:
        """Output vectors for `num_frames` input frames (a number or an integer array); 0 where too short."""
        count: Any = num_frames
        for kernel, stride, padding in zip(self.kernels, self.strides, self.paddings, strict=True):
            grown = (count + 2 * padding - kernel) // stride + 1
            count = np.where(count > 0, np.maximum(grown, 0), 0)
        return count if isinstance(num_frames, np.ndarray) else int(count)

    def min_frames(self) -> int:
        """The fewest frames that give one vector."""
        frames = 1
        while self.num_vectors(frames) < 1:
            frames += 1
        return frames

    def to_json(self) -> dict[str, list[int]]:
        return {name: list(getattr(self, name)) for name in ("kernels", "strides", "paddings")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Geometry:
        return cls(**{name: tuple(data[name]) for name in ("kernels", "strides", "paddings")})
