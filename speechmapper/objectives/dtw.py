"""Alignment by dynamic time warping: each token's vectors are pooled by learned weights and drawn to its row.

    vectors    v0  v1  v2  v3  v4  v5              a monotonic path of least 1 - cosine, every token at least once
    token       0   0   0   1   1   2
    pooled     sum w_u v_u / sum w_u               w: the projector's firing weights, 0 to 1

    L = 5 * |pooled - row|^2 / mean square of the rows  +  10 * (1 - cosine, both minus the mean row)  +  |sum w_u - 1|

each a mean over the tokens (ACIF, arXiv 2609.18516, which subtracts the mean target of the batch; ours is the mean row
of the table, so that a step has one loss however it is cut). The last term teaches when a token is complete: without a
text, head `cif` ends a unit where the weights' sum passes 1.

Shapes: B batch, U vectors, N tokens, E LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from sm_store.errors import ConfigError
from speechmapper.objectives.base import Answers, Part, mean
from speechmapper.projector import Projected

MSE_WEIGHT, COSINE_WEIGHT, FIRING_WEIGHT = 5.0, 10.0, 1.0  # published
NEVER = float("inf")


class DynamicTimeWarping(Part):
    """Names: `dtw` (relative squared error), `dtw_cosine` (centred cosine), `dtw_firing` (distance of sums to 1).

    Args:
        mean_E: the mean row of the table. table_scale: mean square of its numbers.
    """

    def __init__(self, mean_E: torch.Tensor, table_scale: float) -> None:
        super().__init__()
        self._mean_E, self._table_scale = mean_E, table_scale

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        tokens = answers.tokens_B.sum().float()
        return {"dtw": tokens, "dtw_cosine": tokens, "dtw_firing": tokens}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        if projected.firing_BU is None:
            raise ConfigError("objective dtw: this projector has no firing weights; train stage 1 with it")
        vectors_BUE = projected.vectors_BUE.float()
        is_token_BN = torch.arange(answers.token_ids_BN.shape[1], device=vectors_BUE.device) < answers.tokens_B[:, None]
        rows_BNE = answers.targets_BUE[:, : is_token_BN.shape[1]].float()
        token_BU = warped(vectors_BUE, rows_BNE, answers)
        member_BNU = token_BU[:, None, :] == torch.arange(is_token_BN.shape[1], device=token_BU.device)[None, :, None]
        weights_BNU = member_BNU * projected.firing_BU[:, None, :]
        sums_BN = weights_BNU.sum(dim=2)
        pooled_BNE = weights_BNU @ vectors_BUE / sums_BN.clamp(min=1e-6)[..., None]
        error_BN = (pooled_BNE - rows_BNE).square().mean(dim=-1) / self._table_scale
        centred_BN = F.cosine_similarity(pooled_BNE - self._mean_E, rows_BNE - self._mean_E, dim=-1)
        return {
            "dtw": (error_BN * is_token_BN).sum(),
            "dtw_cosine": (centred_BN * is_token_BN).sum(),
            "dtw_firing": ((sums_BN - 1).abs() * is_token_BN).sum(),
        }

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (
            MSE_WEIGHT * mean(sums, counts, "dtw")
            + COSINE_WEIGHT * (1 - mean(sums, counts, "dtw_cosine"))
            + FIRING_WEIGHT * mean(sums, counts, "dtw_firing")
        )


@torch.no_grad()
def warped(vectors_BUE: torch.Tensor, rows_BNE: torch.Tensor, answers: Answers) -> torch.Tensor:
    """The token of each vector, (B, U), int64, on the path of least 1 - cosine to the tokens' rows; -1 beyond."""
    cosine_BUN = F.normalize(vectors_BUE, dim=-1) @ F.normalize(rows_BNE, dim=-1).transpose(1, 2)
    return align(1 - cosine_BUN, answers.vectors_B, answers.tokens_B)


def align(cost_BUN: torch.Tensor, vectors_B: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
    """The token of each vector, (B, U), int64, on the cheapest monotonic path that skips no token; -1 beyond.

    Args:
        cost_BUN: of giving vector u to token n. vectors_B: valid vectors, at least as many as tokens_B.
    """
    batch, size, tokens = cost_BUN.shape
    total_BN = cost_BUN[:, 0].clone()
    total_BN[:, 1:] = NEVER
    moved_BUN = torch.zeros(batch, size, tokens, dtype=torch.bool, device=cost_BUN.device)
    for position in range(1, size):
        before_BN = F.pad(total_BN, (1, 0), value=NEVER)[:, :-1]
        moved_BUN[:, position] = before_BN < total_BN
        total_BN = torch.minimum(before_BN, total_BN) + cost_BUN[:, position]
    token_BU = cost_BUN.new_full((batch, size), -1, dtype=torch.long)
    row_B = torch.arange(batch, device=cost_BUN.device)
    now_B = tokens_B - 1
    for position in range(size - 1, -1, -1):
        valid_B = (position < vectors_B) & (tokens_B > 0)
        token_BU[:, position] = torch.where(valid_B, now_B, -1)
        now_B = now_B - (valid_B & moved_BUN[row_B, position, now_B.clamp(min=0)]).long()
    return token_BU
