"""What the vectors say without an LLM: the nearest rows of its table, and the distance to the true ones.

    vectors     v0    v1    v2    v3
    nearest     1123  284   <pad> <pad>        least squared distance over the whole table
    text        "the dog"                      pads dropped, nothing collapsed, the target set's tokenizer

Relative MSE is the squared error per dimension over the mean square of the table's numbers: 1 is as wrong as
answering zero.

Shapes: B batch, U projector vectors, E LLM width, V vocabulary, P valid positions of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from speechmapper.loader.batches import DeviceBatch
from speechmapper.objectives.mse import word_and_pad_positions

CHUNK_SCORES = 32 * 1024 * 1024  # scores (positions x vocabulary) held at once: 128 MB


class NearestToken:
    """Reads vectors out as text by the nearest row of an embedding table.

    Args:
        table_VE: the LLM's input embeddings, float32.
        tokenizer: a Hugging Face tokenizer.
        pad_id: the row that means "no more text".
        device: where to search.
    """

    def __init__(self, table_VE: np.ndarray | torch.Tensor, tokenizer: Any, pad_id: int, device: torch.device) -> None:
        self._table_VE = torch.as_tensor(table_VE).to(device, torch.float32)
        self._half_norm_V = 0.5 * self._table_VE.square().sum(dim=1)
        self._tokenizer = tokenizer
        self._pad_id = pad_id

    def token_ids(self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor) -> list[list[int]]:
        """The nearest row of each valid vector, pads included."""
        lengths = vectors_B.tolist()
        vectors_PE = torch.cat([vectors_BUE[row, :length] for row, length in enumerate(lengths)]).float()
        nearest_P = self._nearest(vectors_PE)
        return [ids.tolist() for ids in torch.split(nearest_P.cpu(), lengths)]

    def texts(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row: pads dropped, special tokens not written."""
        kept = [[token for token in row if token != self._pad_id] for row in token_ids]
        return [
            self._tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
            for row in kept
        ]

    def _nearest(self, vectors_PE: torch.Tensor) -> torch.Tensor:
        rows = max(1, CHUNK_SCORES // len(self._table_VE))
        # argmin ||v - e||^2 = argmax v.e - ||e||^2 / 2; in float32, as autocast would round it away.
        with torch.autocast(vectors_PE.device.type, enabled=False):
            found = [(chunk @ self._table_VE.T - self._half_norm_V).argmax(dim=1) for chunk in vectors_PE.split(rows)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


@dataclass(slots=True)
class Closeness:
    """Distances to the true embeddings, added up over batches.

    Args:
        table_scale: mean square of the embedding table's numbers.
    """

    table_scale: float
    _sums: dict[str, float] = field(default_factory=dict)

    def add(self, vectors_BUE: torch.Tensor, batch: DeviceBatch) -> None:
        """Add one batch: vectors as the projector gives them, targets of the same batch."""
        vectors, targets = vectors_BUE.float(), batch.targets_BUE.float()
        error_BU = (vectors - targets).square().mean(dim=-1)
        word_BU, pad_BU = word_and_pad_positions(batch.vectors_B, batch.tokens_B, error_BU.shape[1])
        cosine_BU = F.cosine_similarity(vectors, targets, dim=-1)
        for name, value in (
            ("word", error_BU * word_BU),
            ("pad", error_BU * pad_BU),
            ("cosine", cosine_BU * word_BU),
            ("words", word_BU),
            ("pads", pad_BU),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + float(value.sum())

    def figures(self) -> dict[str, float]:
        """Of word positions (tokens and first pad): `mse`, `relative_mse`, `cosine`; `relative_mse_pad`."""
        words, pads = max(1.0, self._sums.get("words", 0)), max(1.0, self._sums.get("pads", 0))
        mse = self._sums.get("word", 0.0) / words
        return {
            "mse": mse,
            "relative_mse": mse / self.table_scale,
            "relative_mse_pad": self._sums.get("pad", 0.0) / pads / self.table_scale,
            "cosine": self._sums.get("cosine", 0.0) / words,
        }
