"""Softmax over the rows of an embedding table, without a matrix of positions x vocabulary in memory.

    logits          q . r_v + b_v                       q a vector, r_v and b_v made from row v of the table
    log_probs       the logits of a few columns, minus log sum exp over all rows
                    computed for some positions at a time, and again in the backward pass

A loss needs only the columns of the tokens in its batch, so this is exact and small; all scores of 1,000 positions
over Llama's 128,256 rows would be 0.5 GB for each term.

Shapes: P positions, K columns, V rows, E width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_SCORES = 16 * 1024 * 1024  # scores in memory at once: 64 MB


@dataclass(frozen=True, slots=True)
class Rows:
    """What vectors are scored by: rows (V, E), float32, and a bias (V,) for each."""

    rows_VE: torch.Tensor
    bias_V: torch.Tensor

    def pick(self, columns_K: torch.Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.rows_VE[columns_K], self.bias_V[columns_K])

    def with_row(self, row_E: torch.Tensor, bias: torch.Tensor) -> Rows:
        """One more row, the last: a blank."""
        return Rows(torch.cat([self.rows_VE, row_E[None]]), torch.cat([self.bias_V, bias.reshape(1)]))

    def scores(self, vectors_PE: torch.Tensor) -> torch.Tensor:
        """Logits (P, V)."""
        return vectors_PE @ self.rows_VE.T + self.bias_V


def distance_rows(table_VE: torch.Tensor, unit: float | torch.Tensor) -> Rows:
    """Logits that are -||q - e_v||^2 / unit, up to a constant of q that a softmax does not see."""
    return Rows(table_VE * (2 / unit), -table_VE.square().sum(dim=-1) / unit)


def log_probs(vectors_PE: torch.Tensor, some: Rows, others: Rows) -> torch.Tensor:
    """Log-softmax over `some` and `others` together, of the columns of `some`: (P, K), float32."""
    with torch.autocast(vectors_PE.device.type, enabled=False):
        vectors_PE = vectors_PE.float()
        scores_PK = some.scores(vectors_PE)
        rest_P = log_sum_exp(vectors_PE, others)
        total_P = torch.logaddexp(torch.logsumexp(scores_PK, dim=-1), rest_P)
        return scores_PK - total_P[:, None]


def log_sum_exp(vectors_PE: torch.Tensor, rows: Rows) -> torch.Tensor:
    """log sum_v exp(logit), (P,); minus infinity where there are no rows."""
    if not len(rows.rows_VE):
        return vectors_PE.new_full((len(vectors_PE),), float("-inf"))
    positions = max(1, CHUNK_SCORES // len(rows.rows_VE))
    if len(vectors_PE) <= positions:
        return torch.logsumexp(rows.scores(vectors_PE), dim=-1)
    pieces = [
        checkpoint(_log_sum_exp, chunk_PE, rows.rows_VE, rows.bias_V, use_reentrant=False)
        for chunk_PE in vectors_PE.split(positions)
    ]
    return torch.cat(pieces)


def _log_sum_exp(vectors_PE: torch.Tensor, rows_VE: torch.Tensor, bias_V: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(vectors_PE @ rows_VE.T + bias_V, dim=-1)


class Vocabulary:
    """The embedding table of an LLM, on the device, and the choice of rows that a batch is scored by.

    Neither a module nor a buffer: it never changes, so no checkpoint should hold it and no process send it.

    Args:
        table_VE: float32. negatives: rows drawn at random beside those of the batch; 0: all rows.
    """

    def __init__(self, table_VE: torch.Tensor, negatives: int) -> None:
        self.table_VE = table_VE
        self._negatives = negatives

    @cached_property
    def row_scale(self) -> float:
        """Mean squared norm of the rows."""
        return float(self.table_VE.square().sum(dim=-1).mean())

    @cached_property
    def mean_E(self) -> torch.Tensor:
        """The mean row."""
        return self.table_VE.mean(dim=0)

    def sample(self, labels: torch.Tensor) -> torch.Tensor | None:
        """The rows to score by, those in `labels` and the ones drawn, (K,); None: all of the table."""
        return torch.cat(self.columns(labels)) if self._negatives else None

    def columns(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Row numbers: those in `labels`, (K,), ascending, and the others to score by, (N,); each occurs once."""
        size, device = len(self.table_VE), self.table_VE.device
        own_K = torch.unique(labels)
        is_other_V = torch.ones(size, dtype=torch.bool, device=device)
        if self._negatives:
            is_other_V.zero_()
            is_other_V[torch.randint(size, (self._negatives,), device=device)] = True
        is_other_V[own_K] = False
        return own_K, is_other_V.nonzero().squeeze(-1)
