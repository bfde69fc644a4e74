"""The embedding table that objectives over a vocabulary are tested with."""

from __future__ import annotations

import pytest
import torch

from tests.speechmapper.objectives.ragged import TABLE_ROWS, TABLE_WIDTH


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(TABLE_ROWS, TABLE_WIDTH, generator=torch.Generator().manual_seed(3))
