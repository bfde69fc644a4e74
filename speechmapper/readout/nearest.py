"""Text from projector vectors without an LLM: the nearest rows of its embedding table.

    vectors     v0    v1    v2    v3
    nearest     1123  284   <pad> <pad>        least squared distance over the whole table
    text        "the dog"                      pads dropped, nothing collapsed, the target set's tokenizer

Shapes: B batch, U projector vectors, E LLM width, V vocabulary, P valid positions of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

CHUNK_SCORES = 32 * 1024 * 1024  # scores (positions x vocabulary) held at once: 128 MB


class NearestToken:
    """Reads vectors out as text by the nearest row of an embedding table.

    Args:
        table_VE: the LLM's input embeddings, float32.
        tokenizer: a Hugging Face tokenizer.
        pad_id: the row that means "no more text".
        device: where to search.
        blank_E: of a projector that is read as CTC: the nearest of the rows and this, repeats merged, blanks dropped.
    """

    def __init__(
        self,
        table_VE: np.ndarray | torch.Tensor,
        tokenizer: Any,
        pad_id: int,
        device: torch.device,
        blank_E: torch.Tensor | None = None,
    ) -> None:
        self._table_VE = torch.as_tensor(table_VE).to(device, torch.float32)
        self._blank = None if blank_E is None else len(self._table_VE)
        if blank_E is not None:
            self._table_VE = torch.cat([self._table_VE, blank_E.detach().to(device, torch.float32)[None]])
        self._half_norm_V = 0.5 * self._table_VE.square().sum(dim=1)
        self._tokenizer = tokenizer
        self._pad_id = pad_id

    def token_ids(self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor) -> list[list[int]]:
        """The nearest row of each valid vector, pads included; with a blank, what remains of them."""
        lengths = vectors_B.tolist()
        vectors_PE = torch.cat([vectors_BUE[row, :length] for row, length in enumerate(lengths)]).float()
        nearest_P = self._nearest(vectors_PE)
        return [self._collapsed(ids.tolist()) for ids in torch.split(nearest_P.cpu(), lengths)]

    def texts(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row: pads dropped, special tokens not written."""
        kept = [[token for token in row if token != self._pad_id] for row in token_ids]
        return [
            self._tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
            for row in kept
        ]

    def lengths(self, token_ids: Sequence[Sequence[int]]) -> list[int]:
        """How many tokens each row says: those before its first pad."""
        return [list(row).index(self._pad_id) if self._pad_id in row else len(row) for row in token_ids]

    def _collapsed(self, ids: list[int]) -> list[int]:
        if self._blank is None:
            return ids
        return [token for token, _ in groupby(ids) if token != self._blank]

    def _nearest(self, vectors_PE: torch.Tensor) -> torch.Tensor:
        rows = max(1, CHUNK_SCORES // len(self._table_VE))
        # argmin ||v - e||^2 = argmax v.e - ||e||^2 / 2; in float32, as autocast would round it away.
        with torch.autocast(vectors_PE.device.type, enabled=False):
            found = [(chunk @ self._table_VE.T - self._half_norm_V).argmax(dim=1) for chunk in vectors_PE.split(rows)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
