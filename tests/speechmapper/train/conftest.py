"""What the tests of stage 2 start from."""

from __future__ import annotations

import pytest
import torch

from sm_pipeline.models.source import resolve_model
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm


@pytest.fixture(scope="module")
def llm(world) -> FrozenLLM:
    return load_llm(resolve_model(str(world.llm_folder), "llm"), torch.device("cpu"))
