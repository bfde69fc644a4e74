"""Cosine similarity to the text embeddings over the word positions (arXiv 2601.20417: L = L_MSE - gamma * L_cos).

The tokens and the first pad count; the remaining pads and batch padding do not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from speechmapper.objectives.base import Answers, Part, mean, word_and_pad_positions
from speechmapper.projector import Projected


class Cosine(Part):
    """Negative mean cosine similarity. Name: `cosine`; its logged value is the similarity itself."""

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        word_BU, _ = word_and_pad_positions(answers.vectors_B, answers.tokens_B, answers.targets_BUE.shape[1])
        return {"cosine": word_BU.sum().float()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        vectors_BUE = projected.vectors_BUE.float()
        word_BU, _ = word_and_pad_positions(answers.vectors_B, answers.tokens_B, vectors_BUE.shape[1])
        cosine_BU = F.cosine_similarity(vectors_BUE, answers.targets_BUE.float(), dim=-1)
        return {"cosine": (cosine_BU * word_BU).sum()}

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return -mean(sums, counts, "cosine")
