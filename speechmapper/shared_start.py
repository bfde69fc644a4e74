"""The shared start of a batch's prompts: the ids that all rows begin with, and its keys and values in an LLM's layers.

common_start([(1, 2, 3), (1, 2, 4)])    (1, 2)
ReadLayer                               takes the keys and values of the start as it is read
StartLayer(keys, values)                gives them to the rows that follow it, and keeps nothing of theirs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer


class ReadLayer(DynamicLayer):
    """One layer's keys and values of the positions it was last given: a layer that runs again puts them there again."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return self.keys, self.values


class StartLayer(DynamicLayer):
    """One layer's keys and values of a shared start, (B, heads, start, width each): what is put after them is handed
    back joined to them and not kept, so that a layer that runs again finds what it found at first."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def common_start(ids: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The ids all rows begin with."""
    shortest = min(ids, key=len)
    for position, token in enumerate(shortest):
        if any(row[position] != token for row in ids):
            return shortest[:position]
    return shortest
