"""Cross-entropy that overwrites its logits: torch's values and gradients, from one copy of the logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from speechmapper import cross_entropy
from speechmapper.cross_entropy import IGNORED, cross_entropy_sum

TARGETS = torch.tensor([3, IGNORED, 0, 6, 3])


def logits_and_leaf(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    leaf = (scale * torch.randn(len(TARGETS), 7)).requires_grad_()
    return leaf * 1.0, leaf


@pytest.mark.parametrize("chunk", [1, 2, 64])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_value_and_gradient_are_torchs(scale, chunk, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
    logits, leaf = logits_and_leaf(scale)
    loss = cross_entropy_sum(logits, TARGETS)
    (0.3 * loss).backward()
    expected = leaf.detach().clone().requires_grad_()
    reference = F.cross_entropy(expected, TARGETS, ignore_index=IGNORED, reduction="sum")
    (0.3 * reference).backward()
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(leaf.grad, expected.grad)
    assert not leaf.grad[1].any()


def test_without_gradients_the_logits_stay():
    logits = torch.randn(5, 7)
    before = logits.clone()
    expected = F.cross_entropy(logits, TARGETS, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(cross_entropy_sum(logits, TARGETS), expected)
    assert torch.equal(logits, before)


def test_positions_that_do_not_count_may_hold_anything():
    logits, leaf = logits_and_leaf(1.0)
    with torch.no_grad():
        logits[1] = float("inf")
    loss = cross_entropy_sum(logits, TARGETS)
    loss.backward()
    assert loss.isfinite() and not leaf.grad[1].any()


def test_an_operation_that_reads_the_logits_in_its_backward_is_noticed():
    leaf = torch.randn(5, 7, requires_grad=True)
    loss = cross_entropy_sum(leaf.exp(), TARGETS)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_gradient_is_in_the_memory_of_the_logits():
    logits, _ = logits_and_leaf(1.0)
    found = []
    logits.register_hook(lambda grad: found.append(grad.data_ptr()))
    address = logits.data_ptr()
    cross_entropy_sum(logits, TARGETS).backward()
    assert found == [address]
