"""Commitment: vectors are drawn to the row that they are read as, so that their means are usable as embeddings.

CTC alone only asks that the right row is nearer than the others: vectors end far away from all of them. The commitment
of an utterance is the mean squared distance of its non-blank vectors to their greedy rows, over the rows' mean squared
norm. It is scaled down where it would exceed the utterance's CTC loss per token, so that it never outweighs what it
serves (DirectSpeech2LLM, arXiv 2610.08085; there the distance is divided by the square root of the width, ours does not
depend on the LLM).

Shapes: B batch, T positions, K columns (the batch's tokens, then the blank), E LLM width.
"""

from __future__ import annotations

import torch


def commitment(
    vectors_BTE: torch.Tensor, log_BTK: torch.Tensor, valid_BT: torch.Tensor, rows_KE: torch.Tensor, row_scale: float
) -> torch.Tensor:
    """Mean relative squared distance of each utterance's non-blank vectors to their greedy rows, (B,), float32.

    Args:
        log_BTK: log-probabilities of the batch's tokens, and of the blank in the last column.
        rows_KE: the rows of those tokens, without the blank's.
        row_scale: mean squared norm of the table's rows.
    """
    greedy_BT = log_BTK.argmax(dim=2)
    said_BT = valid_BT & (greedy_BT < len(rows_KE))
    if len(rows_KE) == 0:
        return vectors_BTE.new_zeros(len(vectors_BTE), dtype=torch.float32)
    difference_BTE = vectors_BTE.float() - rows_KE[greedy_BT.clamp(max=len(rows_KE) - 1)]
    error_BT = difference_BTE.square().sum(dim=2) / row_scale
    return (error_BT * said_BT).sum(dim=1) / said_BT.sum(dim=1).clamp(min=1)


def clamped(commitment_B: torch.Tensor, limit_B: torch.Tensor) -> torch.Tensor:
    """The commitments, each scaled down to its limit where it is above; the scale takes no gradient."""
    scale_B = (limit_B.detach() / commitment_B.detach().clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1)
    return commitment_B * scale_B
