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
    """What vectors are scored by: rows (V, E), float32, a bias (V,) for each, and a scale of the vectors.

    The scale is of the vectors so that the whole table can be the rows as it is, without a copy.
    """

    rows_VE: torch.Tensor
    bias_V: torch.Tensor
    scale: float | torch.Tensor = 1.0

    def pick(self, columns_K: torch.Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.rows_VE[columns_K], self.bias_V[columns_K], self.scale)

    def with_row(self, row_E: torch.Tensor, bias: torch.Tensor) -> Rows:
        """One more row, the last: a blank."""
        rows_VE = torch.cat([self.rows_VE, row_E[None]])
        return Rows(rows_VE, torch.cat([self.bias_V, bias.reshape(1)]), self.scale)

    def scores(self, vectors_PE: torch.Tensor) -> torch.Tensor:
        """Logits (P, V)."""
        return (vectors_PE * self.scale) @ self.rows_VE.T + self.bias_V


def distance_rows(table_VE: torch.Tensor, norms_V: torch.Tensor, unit: float | torch.Tensor) -> Rows:
    """Logits that are -||q - e_v||^2 / unit, up to a constant of q that a softmax does not see.

    Args:
        norms_V: squared norms of the rows.
    """
    return Rows(table_VE, -norms_V / unit, 2 / unit)


def log_probs(vectors_PE: torch.Tensor, some: Rows, others: Rows, among_others: int = 0) -> torch.Tensor:
    """Log-softmax over `some` and `others` together, of the columns of `some`: (P, K), float32.

    Args:
        among_others: so many of `some`, the first, are rows of `others` too; each row counts once.
    """
    with torch.autocast(vectors_PE.device.type, enabled=False):
        vectors_PE = vectors_PE.float()
        scores_PK = some.scores(vectors_PE)
        rest_P = log_sum_exp(vectors_PE, others)
        own_P = torch.logsumexp(scores_PK[:, among_others:], dim=-1)
        return scores_PK - torch.logaddexp(own_P, rest_P)[:, None]


def log_sum_exp(vectors_PE: torch.Tensor, rows: Rows) -> torch.Tensor:
    """log sum_v exp(logit), (P,); minus infinity where there are no rows."""
    if not len(rows.rows_VE):
        return vectors_PE.new_full((len(vectors_PE),), float("-inf"))
    positions = max(1, CHUNK_SCORES // len(rows.rows_VE))
    if len(vectors_PE) <= positions:
        return torch.logsumexp(rows.scores(vectors_PE), dim=-1)
    pieces = [checkpoint(_log_sum_exp, chunk_PE, rows, use_reentrant=False) for chunk_PE in vectors_PE.split(positions)]
    return torch.cat(pieces)


def _log_sum_exp(vectors_PE: torch.Tensor, rows: Rows) -> torch.Tensor:
    return torch.logsumexp(rows.scores(vectors_PE), dim=-1)


class Vocabulary:
    """The embedding table of an LLM, on the device, and the choice of rows that a batch is scored by.

    Neither a module nor a buffer: it never changes, so no checkpoint should hold it and no process send it.

    Args:
        table_VE: float32. negatives: rows drawn at random beside those of the batch; 0: all rows.
    """

    def __init__(self, table_VE: torch.Tensor, negatives: int) -> None:
        self.table_VE = table_VE
        self._negatives = negatives

    @property
    def whole(self) -> bool:
        """Whether a batch is scored by all rows."""
        return not self._negatives

    @cached_property
    def norms_V(self) -> torch.Tensor:
        """Squared norms of the rows."""
        return self.table_VE.square().sum(dim=-1)

    @cached_property
    def directions_VE(self) -> torch.Tensor:
        """The rows at unit length: a second table, made when it is first asked for."""
        return torch.nn.functional.normalize(self.table_VE, dim=-1)

    @property
    def row_scale(self) -> float:
        """Mean squared norm of the rows."""
        return float(self.norms_V.mean())

    @cached_property
    def mean_E(self) -> torch.Tensor:
        """The mean row."""
        return self.table_VE.mean(dim=0)

    def sample(self, labels: torch.Tensor) -> torch.Tensor | None:
        """The rows to score by, those in `labels` and the ones drawn, (K,); None: all of the table."""
        return torch.cat(self.columns(labels)) if self._negatives else None

    def columns(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers of the rows in `labels`, (K,), ascending, and of others drawn at random, (N,); each occurs once."""
        size, device = len(self.table_VE), self.table_VE.device
        own_K = torch.unique(labels)
        is_other_V = torch.zeros(size, dtype=torch.bool, device=device)
        is_other_V[torch.randint(size, (self._negatives,), device=device)] = True
        is_other_V[own_K] = False
        return own_K, is_other_V.nonzero().squeeze(-1)

    def log_probs(
        self,
        vectors_PE: torch.Tensor,
        labels: torch.Tensor,
        rows: Rows,
        blank: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-softmax over the rows that a batch is scored by: of its own tokens, (P, K), and which these are, (K,).

        Args:
            labels: tokens of the batch, any shape.
            rows: of the whole table. blank: row (E,) and bias () of one more column, the last.
        """
        own_K, others = torch.unique(labels), rows
        if not self.whole:
            own_K, others_N = self.columns(labels)
            others = rows.pick(others_N)
        some = rows.pick(own_K)
        if blank is not None:
            some = some.with_row(*blank)
        return log_probs(vectors_PE, some, others, len(own_K) if self.whole else 0), own_K
