"""The paper's stage 1 loss: squared error to the padded text embeddings, words against pads by alpha.

    position   0     1     2     3      4     5     | 6 ...
    target     the   dog   ran   pad    pad   pad   | batch padding
    part       word  word  word  word   pad   pad   | never counted

    L_MSE = alpha * MSE_word + (10 - alpha) * MSE_pad          alpha in [1, 9]
    L     = L_MSE - gamma * L_cos                              (arXiv 2601.20417, section 2)

MSE_word is the mean over the tokens and the *first* pad, which teaches where the text ends; MSE_pad the mean over the
remaining pads. L_cos is the mean cosine similarity over the word positions. With several micro-batches the means are
over all positions of the step.

Shapes: B batch, U projector vectors, E LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from sm_store.errors import ConfigError
from speechmapper.objectives.base import Terms

REDUCTIONS = ("mean_dim", "sum_dim", "normalized")
ALPHA_TOTAL = 10.0  # the weights of word and pad positions add up to this (paper)
MIN_ALPHA, MAX_ALPHA = 1.0, 9.0  # paper


@dataclass(frozen=True, slots=True)
class WeightedMSE:
    """Word/pad-weighted MSE with an optional cosine term.

    Args:
        alpha: weight of the word positions, 1 to 9; the pads weigh 10 - alpha.
        cosine_weight: gamma; 0 switches the cosine term off.
        reduction: of one position's squared error over E: `mean_dim`, `sum_dim`, or `normalized` (divided by
            `table_scale`, the mean squared norm of the embedding table's rows: scale-free across LLMs).
        table_scale: mean squared row norm of the LLM's embedding table; only `normalized` uses it.

    Raises:
        ConfigError: alpha outside [1, 9], an unknown reduction, a scale that is not positive.
    """

    alpha: float = 5.0
    cosine_weight: float = 0.0
    reduction: str = "normalized"
    table_scale: float = 1.0

    def __post_init__(self) -> None:
        if not MIN_ALPHA <= self.alpha <= MAX_ALPHA:
            raise ConfigError(f"objective.alpha {self.alpha}: give a number from {MIN_ALPHA:g} to {MAX_ALPHA:g}")
        if self.reduction not in REDUCTIONS:
            raise ConfigError(f"objective.reduction {self.reduction!r}: use one of {', '.join(REDUCTIONS)}")
        if self.cosine_weight < 0:
            raise ConfigError(f"objective.cosine_weight {self.cosine_weight}: give 0 or more")
        if not self.table_scale > 0:
            raise ConfigError(f"table_scale {self.table_scale}: the embedding table has no positive scale")

    def __call__(
        self,
        vectors_BUE: torch.Tensor,
        vectors_B: torch.Tensor,
        targets_BUE: torch.Tensor,
        tokens_B: torch.Tensor,
    ) -> Terms:
        """Sums over one batch.

        Args:
            vectors_BUE: projector output, any float dtype; vectors_B: its valid lengths, int64.
            targets_BUE: padded text embeddings; tokens_B: text tokens of each utterance (tokens < vectors).

        Returns:
            `word`, `pad` (squared error) and `cosine`, each with its number of positions.
        """
        word_BU, pad_BU = word_and_pad_positions(vectors_B, tokens_B, vectors_BUE.shape[1])
        vectors, targets = vectors_BUE.float(), targets_BUE.float()
        error_BU = self._reduce((vectors - targets).square())
        sums = {"word": (error_BU * word_BU).sum(), "pad": (error_BU * pad_BU).sum()}
        counts = {"word": word_BU.sum().float(), "pad": pad_BU.sum().float()}
        if self.cosine_weight:
            sums["cosine"] = (F.cosine_similarity(vectors, targets, dim=-1) * word_BU).sum()
            counts["cosine"] = counts["word"]
        return Terms(sums, counts)

    def _reduce(self, squared_BUE: torch.Tensor) -> torch.Tensor:
        if self.reduction == "mean_dim":
            return squared_BUE.mean(dim=-1)
        total_BU = squared_BUE.sum(dim=-1)
        return total_BU / self.table_scale if self.reduction == "normalized" else total_BU

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of one step from its parts; a part without positions counts as 0."""
        mean = {name: sums[name] / counts[name].clamp(min=1) for name in sums}
        loss = self.alpha * mean["word"] + (ALPHA_TOTAL - self.alpha) * mean["pad"]
        return loss - self.cosine_weight * mean["cosine"] if self.cosine_weight else loss


def word_and_pad_positions(
    vectors_B: torch.Tensor, tokens_B: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (B, size) of word positions (tokens and the first pad) and of the remaining pads."""
    position_1U = torch.arange(size, device=vectors_B.device)[None, :]
    valid_BU = position_1U < vectors_B[:, None]
    word_BU = valid_BU & (position_1U <= tokens_B[:, None])
    return word_BU, valid_BU & ~word_BU
