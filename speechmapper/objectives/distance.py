"""Distance to the padded text embeddings, with alpha as the weight of words against pads: the paper's MSE, and L1.

    position   0     1     2     3      4     5     | 6 ...
    target     the   dog   ran   pad    pad   pad   | batch padding
    part       word  word  word  word   pad   pad   | never counted

    L = alpha * mean over words + (10 - alpha) * mean over pads       alpha in [1, 9]
                                                                      (arXiv 2601.20417, section 2)

The word positions are the tokens and the *first* pad, which teaches where the text ends. With several micro-batches the
means are over all positions of the step. Later work uses L1 instead (arXiv 2607.01960).

Shapes: B batch, U projector vectors, E LLM width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sm_store.errors import ConfigError
from speechmapper.objectives.base import Answers, Part, mean, word_and_pad_positions
from speechmapper.projector import Projected

REDUCTIONS = ("mean_dim", "sum_dim", "normalized")
ALPHA_TOTAL = 10.0  # the weights of word and pad positions add up to this (paper)
MIN_ALPHA, MAX_ALPHA = 1.0, 9.0  # paper


class WeightedDistance(Part):
    """Word/pad-weighted distance; `squared`: MSE, else L1. Names: `word`, `pad`.

    Args:
        alpha: weight of the word positions, 1 to 9; the pads weigh 10 - alpha.
        reduction: of one position's errors over E: `mean_dim`, `sum_dim`, or `normalized` (`mean_dim` over the mean
            square of the table's numbers, for L1 over its root: scale-free across LLMs).
        table_scale: mean square of the numbers of the LLM's embedding table; only `normalized` uses it.

    Raises:
        ConfigError: alpha outside [1, 9], an unknown reduction, a scale that is not positive.
    """

    def __init__(
        self, alpha: float = 5.0, reduction: str = "normalized", table_scale: float = 1.0, squared: bool = True
    ) -> None:
        super().__init__()
        if not MIN_ALPHA <= alpha <= MAX_ALPHA:
            raise ConfigError(f"objective.alpha {alpha}: give a number from {MIN_ALPHA:g} to {MAX_ALPHA:g}")
        if reduction not in REDUCTIONS:
            raise ConfigError(f"objective.reduction {reduction!r}: use one of {', '.join(REDUCTIONS)}")
        if not table_scale > 0:
            raise ConfigError(f"table_scale {table_scale}: the embedding table has no positive scale")
        self.alpha, self.reduction, self.squared = alpha, reduction, squared
        self._unit = table_scale if squared else math.sqrt(table_scale)

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        word_BU, pad_BU = word_and_pad_positions(answers.vectors_B, answers.tokens_B, answers.targets_BUE.shape[1])
        return {"word": word_BU.sum().float(), "pad": pad_BU.sum().float()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        vectors_BUE = projected.vectors_BUE.float()
        word_BU, pad_BU = word_and_pad_positions(answers.vectors_B, answers.tokens_B, vectors_BUE.shape[1])
        difference_BUE = vectors_BUE - answers.targets_BUE.float()
        error_BU = self._reduce(difference_BUE.square() if self.squared else difference_BUE.abs())
        return {"word": (error_BU * word_BU).sum(), "pad": (error_BU * pad_BU).sum()}

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A step without word or without pad positions has 0 for that term."""
        return self.alpha * mean(sums, counts, "word") + (ALPHA_TOTAL - self.alpha) * mean(sums, counts, "pad")

    def _reduce(self, error_BUE: torch.Tensor) -> torch.Tensor:
        if self.reduction == "sum_dim":
            return error_BUE.sum(dim=-1)
        mean_BU = error_BUE.mean(dim=-1)
        return mean_BU / self._unit if self.reduction == "normalized" else mean_BU
