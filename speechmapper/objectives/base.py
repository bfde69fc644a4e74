"""The interface of an objective: a weighted sum of parts, each a small module that gives sums and their counts.

    mse+cosine           word = 41.2 over 37 positions, pad = 3.0 over 21, cosine = 30.1 over 37
    loss of the step     weight * combine(sums of all micro-batches, counts of all micro-batches), part by part

A part never divides by a batch's own count: the loop first adds sums and counts over micro-batches and processes and
then divides once (the mean over all valid positions of a step, not the mean of means). Counts depend only on the
answers, so they are known before the model runs.

Shapes: B batch, U projector vectors, N tokens, E LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from speechmapper.projector import Projected


@dataclass(frozen=True, slots=True)
class Answers:
    """What the projector's vectors should be for a batch of utterances.

    Attributes:
        targets_BUE: the text's embeddings, then the pad token's up to `vectors_B`; zero beyond.
        vectors_B: valid vectors of each utterance; tokens_B: its text tokens (fewer than vectors); int64.
        token_ids_BN: the text's token ids, int64; 0 beyond `tokens_B`.
        frames_B: valid feature frames, int64.
    """

    targets_BUE: torch.Tensor
    vectors_B: torch.Tensor
    tokens_B: torch.Tensor
    token_ids_BN: torch.Tensor
    frames_B: torch.Tensor


class Part(nn.Module):
    """One term of a loss. Its own parameters, if any, are trained with the projector and not saved with it."""

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        """The number of positions each of the part's sums is over: float32 scalars, by their names in the log."""
        raise NotImplementedError

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        """Differentiable float32 scalar sums under the same names."""
        raise NotImplementedError

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The term of a step, smaller is better: linear in the sums; `counts` are those of the whole *step*."""
        raise NotImplementedError


class Objective(nn.Module):
    """A weighted sum of parts, with the interface of a part.

    Args:
        parts: part and weight by name, in the order they are added.
    """

    def __init__(self, parts: Mapping[str, tuple[Part, float]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: part for name, (part, _) in parts.items()})
        self._weights = {name: weight for name, (_, weight) in parts.items()}

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        """Counts of every part."""
        return {name: count for part in self._parts() for name, count in part.counts(answers).items()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        """Sums of every part."""
        return {name: value for part in self._parts() for name, value in part(projected, answers).items()}

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a step."""
        terms = [
            weight * part.combine(sums, counts)
            for weight, part in zip(self._weights.values(), self._parts(), strict=True)
        ]
        return torch.stack(terms).sum()

    def _parts(self) -> list[Part]:
        return list(self.parts.values())  # type: ignore[arg-type]  # ModuleDict does not know the type of its values


def mean(sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """One sum over its count; 0 where nothing was counted."""
    return sums[name] / counts[name].clamp(min=1)


def word_and_pad_positions(
    vectors_B: torch.Tensor, tokens_B: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (B, size) of word positions (tokens and the first pad) and of the remaining pads."""
    position_1U = torch.arange(size, device=vectors_B.device)[None, :]
    valid_BU = position_1U < vectors_B[:, None]
    word_BU = valid_BU & (position_1U <= tokens_B[:, None])
    return word_BU, valid_BU & ~word_BU
