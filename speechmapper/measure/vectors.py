"""How far projector vectors are from their target text embeddings: distances, lengths, norms.

    closeness.add(vectors_BUE, batch)                            for every batch
    closeness.figures()  ->  {"mse": 0.011, "relative_mse": 0.6, "cosine": 0.71, ...}

Relative MSE is the squared error per dimension divided by the mean square of the embedding table: vectors of zeros
have about 1.

Shapes: B batch, U projector vectors, E LLM width, V vocabulary, P valid positions of all batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from speechmapper.objectives.base import Answers, word_and_pad_positions

NORM_BINS = 40


def squared_error(vectors_BUE: torch.Tensor, targets_BUE: torch.Tensor) -> torch.Tensor:
    """Squared error per dimension at each position (B, U), float32."""
    return (vectors_BUE.float() - targets_BUE.float()).square().mean(dim=-1)


def word_errors(
    vectors_BUE: torch.Tensor, targets_BUE: torch.Tensor, vectors_B: torch.Tensor, tokens_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error per dimension over each row's word positions (B,), and how many these are (B,).

    Word positions are the tokens and the first pad; a row without tokens has none.
    """
    error_BU = squared_error(vectors_BUE, targets_BUE)
    word_BU, _ = word_and_pad_positions(vectors_B, tokens_B, error_BU.shape[1])
    positions_B = torch.where(tokens_B > 0, word_BU.sum(dim=1), 0)
    return (error_BU * word_BU).sum(dim=1) / word_BU.sum(dim=1).clamp(min=1), positions_B


@dataclass(slots=True)
class Closeness:
    """Distances to the target embeddings, summed over batches.

    Args:
        table_scale: mean square of the embedding table.
    """

    table_scale: float
    _sums: dict[str, float] = field(default_factory=dict)

    def add(self, vectors_BUE: torch.Tensor, batch: Answers) -> None:
        """Add one batch: the projector's vectors (B, U, E), and the batch with their targets."""
        error_BU = squared_error(vectors_BUE, batch.targets_BUE)
        word_BU, pad_BU = word_and_pad_positions(batch.vectors_B, batch.tokens_B, error_BU.shape[1])
        cosine_BU = F.cosine_similarity(vectors_BUE.float(), batch.targets_BUE.float(), dim=-1)
        for name, value in (
            ("word", error_BU * word_BU),
            ("pad", error_BU * pad_BU),
            ("cosine", cosine_BU * word_BU),
            ("words", word_BU),
            ("pads", pad_BU),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())

    def merge(self, other: Closeness) -> None:
        """Add the batches of another."""
        for name, value in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def figures(self) -> dict[str, float]:
        """`mse`, `relative_mse` and `cosine` over word positions (tokens and first pad); `mse_pad` and
        `relative_mse_pad` over the other pads."""
        words, pads = max(1.0, self._sums.get("words", 0)), max(1.0, self._sums.get("pads", 0))
        mse, mse_pad = self._sums.get("word", 0.0) / words, self._sums.get("pad", 0.0) / pads
        return {
            "mse": mse,
            "relative_mse": mse / self.table_scale,
            "mse_pad": mse_pad,
            "relative_mse_pad": mse_pad / self.table_scale,
            "cosine": self._sums.get("cosine", 0.0) / words,
        }


@dataclass(slots=True)
class Lengths:
    """Predicted and true lengths in tokens, collected over batches."""

    _predicted: list[int] = field(default_factory=list)
    _true: list[int] = field(default_factory=list)

    def add(self, predicted: Sequence[int], true: Sequence[int]) -> None:
        """Add one batch."""
        self._predicted += predicted
        self._true += true

    def figures(self) -> dict[str, float]:
        """`length_error`: mean absolute difference in tokens; `length_ratio`: total predicted over total true."""
        predicted, true = np.asarray(self._predicted, np.float64), np.asarray(self._true, np.float64)
        if not len(true):
            return {}
        return {
            "length_error": float(np.abs(predicted - true).mean()),
            "length_ratio": float(predicted.sum() / max(1.0, true.sum())),
        }


class Norms:
    """Euclidean norms of the vectors at word positions, compared with those of the embedding table's rows.

    Args:
        table_VE: the LLM's input embeddings.
    """

    def __init__(self, table_VE: np.ndarray) -> None:
        self._table_V = np.linalg.norm(np.asarray(table_VE, np.float32), axis=1)
        self._found: list[np.ndarray] = []

    def add(self, vectors_BUE: torch.Tensor, batch: Answers) -> None:
        """Add one batch."""
        norm_BU = vectors_BUE.float().norm(dim=-1)
        word_BU, _ = word_and_pad_positions(batch.vectors_B, batch.tokens_B, norm_BU.shape[1])
        self._found.append(norm_BU[word_BU].cpu().numpy())

    def values(self) -> np.ndarray:
        """Norms of all batches, (P,)."""
        return np.concatenate(self._found) if self._found else np.zeros(0, np.float32)

    def figures(self) -> dict[str, float]:
        """`norm_p05`, `norm_p50`, `norm_p95`: percentiles in units of the table's median norm."""
        values, unit = self.values(), max(float(np.median(self._table_V)), 1e-12)
        if not len(values):
            return {}
        return {f"norm_p{share:02d}": float(np.percentile(values, share)) / unit for share in (5, 50, 95)}

    def histogram(self) -> dict[str, list[float]]:
        """Shares of the vectors and of the table's rows in equal bins from 0 to twice the table's 99th percentile; the
        last bin also holds all larger norms. `edges` are the lower ends of the bins."""
        top = 2 * float(np.percentile(self._table_V, 99))
        edges = np.linspace(0.0, max(top, 1e-12), NORM_BINS, endpoint=False)
        shares = {}
        for name, norms in (("vectors", self.values()), ("table", self._table_V)):
            counts = np.bincount(np.searchsorted(edges, norms, side="right") - 1, minlength=NORM_BINS)
            shares[name] = [round(float(count) / max(1, len(norms)), 6) for count in counts]
        return {"edges": [round(float(edge), 6) for edge in edges], **shares}
