"""Cross-entropy whose gradient takes the place of its logits, so that a large vocabulary is in memory once.

    logits_PV = llm(...).logits.float()                       of 300 tokens and 128,256 rows 154 MB
    loss = cross_entropy_sum(logits_PV, answers_P)            the logits are no more: there is softmax - one-hot
    loss.backward()                                           multiplied by the loss's own gradient, in place

`torch.nn.functional.cross_entropy` keeps the logits' softmax for the backward pass, and makes two more tensors of that
size in it. Here only `CHUNK` positions are in memory twice; values are torch's own.

Shapes: P positions, C those of a chunk, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = 64  # positions whose softmax is beside the logits at one time; our own
IGNORED = -100  # in place of a target: the position does not count


def cross_entropy_sum(logits_PV: torch.Tensor, targets_P: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the positions whose target is not `IGNORED`; a float32 scalar.

    Args:
        logits_PV: float32; where gradients are needed they are overwritten, so nothing else may read them afterwards
            (autograd refuses an operation before that would).
        targets_P: ids, or `IGNORED`.
    """
    if not (torch.is_grad_enabled() and logits_PV.requires_grad):
        return F.cross_entropy(logits_PV, targets_P, ignore_index=IGNORED, reduction="sum")
    loss: torch.Tensor = _CrossEntropySum.apply(logits_PV, targets_P)
    return loss


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_PV: torch.Tensor, targets_P: torch.Tensor) -> torch.Tensor:
        gradient_PV = logits_PV.detach()  # the same memory, whose changes autograd notices
        loss = torch.zeros((), device=logits_PV.device)
        for values_CV, targets_C in zip(gradient_PV.split(CHUNK), targets_P.split(CHUNK), strict=True):
            logarithms_CV = values_CV.log_softmax(dim=-1)
            loss += F.nll_loss(logarithms_CV, targets_C, ignore_index=IGNORED, reduction="sum")
            values_CV.copy_(logarithms_CV.exp_())
            answers_C1 = targets_C.clamp(min=0)[:, None]
            values_CV.scatter_add_(-1, answers_C1, torch.full_like(values_CV[:, :1], -1.0))
            values_CV.masked_fill_((targets_C == IGNORED)[:, None], 0.0)
        ctx.gradient_PV = gradient_PV
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient_PV, ctx.gradient_PV = ctx.gradient_PV, None
        return gradient_PV.mul_(grad), None
