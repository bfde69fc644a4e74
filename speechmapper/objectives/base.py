"""The interface of an objective: vectors and padded targets in, sums and counts out.

An objective never divides by a batch's own count: it returns sums with the counts they belong to, so that a loop can
add them over micro-batches and ranks first and divide once (the mean over all valid positions of a step, not the mean
of means).

    terms = objective(vectors_BUE, vectors_B, targets_BUE, tokens_B)
    terms.sums["word"] = (tensor(41.2), 37)       squared error of 37 word positions

Shapes: B batch, U projector vectors, E LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Terms:
    """One batch's share of a loss.

    Attributes:
        sums: differentiable scalar (float32) of each part, summed over its positions.
        counts: the number of positions each part was summed over, (), float32.
    """

    sums: Mapping[str, torch.Tensor]
    counts: Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A stage 1 loss."""

    def __call__(
        self,
        vectors_BUE: torch.Tensor,
        vectors_B: torch.Tensor,
        targets_BUE: torch.Tensor,
        tokens_B: torch.Tensor,
    ) -> Terms:
        """Sums and counts of every part of the loss over the valid positions of a batch."""

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a step: part sums over the *step's* counts, weighted."""
