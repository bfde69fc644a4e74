"""The rows of an LLM's embedding table as seen from vectors: which is nearest, mixtures of them, probable tokens.

    nearest          argmin_v ||q - e_v||^2                                 a token per vector
    mixed            sum_v p_v e_v,  p = softmax_v(-||q - e_v||^2 / unit)   a vector inside the rows' convex hull
                     unit = temperature * mean ||e_v||^2, the scale that `ctc-embedding` is trained with
    log_probs_top    the largest log p_v, with the blank as one more row    what beam search reads

Scores are computed for some vectors at a time, and again in the backward pass, so no (vectors x vocabulary) matrix is
held: for 1,000 vectors and Llama's 128,256 rows it would take 0.5 GB. Everything is float32, also under autocast.

Shapes: P vectors, V vocabulary, K rows that are mixed or kept, E LLM width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

CHUNK_SCORES = 16 * 1024 * 1024  # scores in memory at once: 64 MB
Computed = TypeVar("Computed")


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most probable tokens of some positions, and the blank.

    Attributes:
        ids_PK: the tokens, the most probable first, int64. log_probs_PK: natural logarithms of their probabilities.
        blank_P: that of the blank.
    """

    ids_PK: torch.Tensor
    log_probs_PK: torch.Tensor
    blank_P: torch.Tensor


class TableRows:
    """An embedding table on a device, in float32.

    Args:
        table_VE: the LLM's input embeddings.
    """

    def __init__(self, table_VE: np.ndarray | torch.Tensor, device: torch.device) -> None:
        self.table_VE = torch.as_tensor(table_VE).detach().to(device, torch.float32)
        self._half_norm_V = self.table_VE.square().sum(dim=1) / 2
        self._row_scale = 2 * self._half_norm_V.mean()

    def pick(self, rows_K: torch.Tensor) -> TableRows:
        """Some of the rows, at the scale of all."""
        some = copy.copy(self)
        some.table_VE, some._half_norm_V = self.table_VE[rows_K], self._half_norm_V[rows_K]
        return some

    def nearest(self, vectors_PE: torch.Tensor, blank_E: torch.Tensor | None = None) -> torch.Tensor:
        """The row nearest to each vector, (P,), int64; -1 where the blank is nearer than all of them."""
        found = self._chunked(lambda chunk_PE: self._nearest(chunk_PE, blank_E), vectors_PE)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=self.table_VE.device)

    def mixed(self, vectors_PE: torch.Tensor, temperature: float | torch.Tensor, top_k: int = 0) -> torch.Tensor:
        """The mixture of rows that each vector stands for, (P, E), float32; differentiable.

        Args:
            temperature: of the softmax, over the mean squared norm of the rows.
            top_k: only so many rows, the nearest, are mixed; 0: all.
        """
        scale, count = self._scale(temperature), min(top_k, len(self.table_VE))

        def mix(chunk_PE: torch.Tensor) -> torch.Tensor:
            return checkpoint(self._mix, chunk_PE, scale, count, use_reentrant=False)

        found = self._chunked(mix, vectors_PE)
        return torch.cat(found) if found else vectors_PE.float()

    def log_probs_top(
        self, vectors_PE: torch.Tensor, blank_E: torch.Tensor, temperature: float | torch.Tensor, count: int
    ) -> TopTokens:
        """The `count` most probable tokens of each vector, by a softmax over all rows and the blank; no gradients.

        Args:
            temperature: as for `mixed`.
        """
        scale, kept = self._scale(temperature), min(count, len(self.table_VE))
        found = self._chunked(lambda chunk_PE: self._log_probs_top(chunk_PE, blank_E, scale, kept), vectors_PE)
        if not found:
            nothing_PK = vectors_PE.new_zeros((0, kept), dtype=torch.float32)
            return TopTokens(nothing_PK.long(), nothing_PK, nothing_PK.sum(dim=1))
        return TopTokens(
            torch.cat([chunk.ids_PK for chunk in found]),
            torch.cat([chunk.log_probs_PK for chunk in found]),
            torch.cat([chunk.blank_P for chunk in found]),
        )

    def _scale(self, temperature: float | torch.Tensor) -> torch.Tensor:
        """One over what half a squared distance is divided by."""
        return 2 / (torch.as_tensor(temperature, device=self.table_VE.device) * self._row_scale)

    def _nearest(self, vectors_PE: torch.Tensor, blank_E: torch.Tensor | None) -> torch.Tensor:
        best_P, nearest_P = self._scores(vectors_PE).max(dim=1)
        if blank_E is None:
            return nearest_P
        return torch.where(_blank_scores(vectors_PE, blank_E) > best_P, -1, nearest_P)

    @torch.no_grad()
    def _log_probs_top(
        self, vectors_PE: torch.Tensor, blank_E: torch.Tensor, scale: torch.Tensor, count: int
    ) -> TopTokens:
        logits_PV = self._scores(vectors_PE).mul_(scale)
        blank_P = scale * _blank_scores(vectors_PE, blank_E)
        total_P = torch.logaddexp(logits_PV.logsumexp(dim=1), blank_P)
        top_PK, ids_PK = logits_PV.topk(count, dim=1)
        return TopTokens(ids_PK, top_PK - total_P[:, None], blank_P - total_P)

    def _mix(self, vectors_PE: torch.Tensor, scale: torch.Tensor, top_k: int) -> torch.Tensor:
        scores_PV = self._scores(vectors_PE)
        if top_k:
            scores_PK, rows_PK = scores_PV.topk(top_k, dim=1)
            weights_PK = (scale * scores_PK).softmax(dim=1)
            return torch.einsum("pk,pke->pe", weights_PK, self.table_VE[rows_PK])
        return (scale * scores_PV).softmax(dim=1) @ self.table_VE

    def _scores(self, vectors_PE: torch.Tensor) -> torch.Tensor:
        """q . e - ||e||^2 / 2: -||q - e||^2 / 2 up to a constant of q, (P, V)."""
        return vectors_PE @ self.table_VE.T - self._half_norm_V

    def _chunked(self, compute: Callable[[torch.Tensor], Computed], vectors_PE: torch.Tensor) -> list[Computed]:
        chunk = max(1, CHUNK_SCORES // len(self.table_VE))
        # In float32: autocast would round the differences between near rows away.
        with torch.autocast(vectors_PE.device.type, enabled=False):
            return [compute(chunk_PE) for chunk_PE in vectors_PE.float().split(chunk) if len(chunk_PE)]


def _blank_scores(vectors_PE: torch.Tensor, blank_E: torch.Tensor) -> torch.Tensor:
    """`_scores` of the blank, (P,)."""
    blank_E = blank_E.detach().float()
    return vectors_PE @ blank_E - blank_E.square().sum() / 2
