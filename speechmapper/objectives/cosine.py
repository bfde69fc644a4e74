"""Cosine similarity to the text embeddings over the word positions (arXiv 2601.20417: L = L_MSE - gamma * L_cos).

    cosine             of vector and row
    centered-cosine    of both minus the mean row of the table: rows share a large common part that says nothing about
                       the token (arXiv 2609.18516, there minus the batch's mean target)

The tokens and the first pad count; the remaining pads and batch padding do not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from speechmapper.objectives.base import Answers, Part, mean, word_and_pad_positions
from speechmapper.projector import Projected


class Cosine(Part):
    """Negative mean cosine similarity; its logged value is the similarity itself.

    Args:
        name: of its figure.
        mean_E: what is subtracted from vectors and rows first; None: nothing.
    """

    def __init__(self, name: str = "cosine", mean_E: torch.Tensor | None = None) -> None:
        super().__init__()
        self.name, self._mean_E = name, mean_E

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        word_BU, _ = word_and_pad_positions(answers.vectors_B, answers.tokens_B, answers.targets_BUE.shape[1])
        return {self.name: word_BU.sum().float()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        vectors_BUE, targets_BUE = projected.vectors_BUE.float(), answers.targets_BUE.float()
        if self._mean_E is not None:
            vectors_BUE, targets_BUE = vectors_BUE - self._mean_E, targets_BUE - self._mean_E
        word_BU, _ = word_and_pad_positions(answers.vectors_B, answers.tokens_B, vectors_BUE.shape[1])
        cosine_BU = F.cosine_similarity(vectors_BUE, targets_BUE, dim=-1)
        return {self.name: (cosine_BU * word_BU).sum()}

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return -mean(sums, counts, self.name)
