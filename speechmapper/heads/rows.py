"""The rows of an LLM's embedding table as seen from vectors: which is nearest, and mixtures of them.

    nearest     argmin_v ||q - e_v||^2                                      a token per vector
    mixed       sum_v p_v e_v,  p = softmax_v(-||q - e_v||^2 / unit)        a vector inside the rows' convex hull
                unit = temperature * mean ||e_v||^2, the scale that `ctc-embedding` is trained with

Scores are computed for some vectors at a time, and again in the backward pass, so no (vectors x vocabulary) matrix is
held: for 1,000 vectors and Llama's 128,256 rows it would take 0.5 GB. Everything is float32, also under autocast.

Shapes: P vectors, V vocabulary, K rows mixed, E LLM width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

CHUNK_SCORES = 16 * 1024 * 1024  # scores in memory at once: 64 MB


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
        scale = 1 / (torch.as_tensor(temperature, device=self.table_VE.device) * self._row_scale)
        count = min(top_k, len(self.table_VE))

        def mix(chunk_PE: torch.Tensor) -> torch.Tensor:
            return checkpoint(self._mix, chunk_PE, scale, count, use_reentrant=False)

        found = self._chunked(mix, vectors_PE)
        return torch.cat(found) if found else vectors_PE.float()

    def _nearest(self, vectors_PE: torch.Tensor, blank_E: torch.Tensor | None) -> torch.Tensor:
        best_P, nearest_P = self._scores(vectors_PE).max(dim=1)
        if blank_E is None:
            return nearest_P
        blank_E = blank_E.detach().float()
        return torch.where(vectors_PE @ blank_E - blank_E.square().sum() / 2 > best_P, -1, nearest_P)

    def _mix(self, vectors_PE: torch.Tensor, scale: torch.Tensor, top_k: int) -> torch.Tensor:
        scores_PV = self._scores(vectors_PE)
        if top_k:
            scores_PK, rows_PK = scores_PV.topk(top_k, dim=1)
            weights_PK = (2 * scale * scores_PK).softmax(dim=1)
            return torch.einsum("pk,pke->pe", weights_PK, self.table_VE[rows_PK])
        return (2 * scale * scores_PV).softmax(dim=1) @ self.table_VE

    def _scores(self, vectors_PE: torch.Tensor) -> torch.Tensor:
        """q . e - ||e||^2 / 2: -||q - e||^2 / 2 up to a constant of q, (P, V)."""
        return vectors_PE @ self.table_VE.T - self._half_norm_V

    def _chunked(self, compute: Callable[[torch.Tensor], torch.Tensor], vectors_PE: torch.Tensor) -> list[torch.Tensor]:
        chunk = max(1, CHUNK_SCORES // len(self.table_VE))
        # In float32: autocast would round the differences between near rows away.
        with torch.autocast(vectors_PE.device.type, enabled=False):
            return [compute(chunk_PE) for chunk_PE in vectors_PE.float().split(chunk) if len(chunk_PE)]
