"""Softmax against the vocabulary: each word position must be nearer to its own token's row than to any
other (arXiv 2607.01960, there with weight 0.1 beside L1 and cosine).

    logits of a position    cos(v, e_k) / temperature          k over the rows of the embedding table
    label                   the token; the pad token at the first pad

Shapes: B batch, U projector vectors, P word positions, V vocabulary, E LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from speechmapper.objectives.base import Answers, Part, mean, word_and_pad_positions
from speechmapper.objectives.vocabulary import Rows, Vocabulary
from speechmapper.projector import Projected


class Contrastive(Part):
    """Mean cross-entropy over the word positions. Name: `contrastive`.

    Args:
        pad_id: the row of the pad token. temperature: divides the cosine.
    """

    def __init__(self, vocabulary: Vocabulary, pad_id: int, temperature: float) -> None:
        super().__init__()
        self._vocabulary, self._pad_id, self._temperature = vocabulary, pad_id, temperature

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        word_BU, _ = word_and_pad_positions(answers.vectors_B, answers.tokens_B, answers.targets_BUE.shape[1])
        return {"contrastive": word_BU.sum().float()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        vectors_BUE = projected.vectors_BUE
        word_BU, _ = word_and_pad_positions(answers.vectors_B, answers.tokens_B, vectors_BUE.shape[1])
        labels_P = labels(answers, vectors_BUE.shape[1], self._pad_id)[word_BU]
        directions_VE = self._vocabulary.directions_VE
        rows = Rows(directions_VE, directions_VE.new_zeros(len(directions_VE)), 1 / self._temperature)
        log_PK, own_K = self._vocabulary.log_probs(F.normalize(vectors_BUE[word_BU].float(), dim=-1), labels_P, rows)
        chosen_P = log_PK.gather(1, torch.searchsorted(own_K, labels_P)[:, None])
        return {"contrastive": -chosen_P.sum()}

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return mean(sums, counts, "contrastive")


def labels(answers: Answers, size: int, pad_id: int) -> torch.Tensor:
    """The token of each position, (B, size), int64; the pad token after the text."""
    ids_BU = answers.token_ids_BN.new_full((len(answers.tokens_B), size), pad_id)
    known = min(size, answers.token_ids_BN.shape[1])
    position_1N = torch.arange(known, device=ids_BU.device)[None, :]
    is_token_BN = position_1N < answers.tokens_B[:, None]
    ids_BU[:, :known] = torch.where(is_token_BN, answers.token_ids_BN[:, :known], pad_id)
    return ids_BU
