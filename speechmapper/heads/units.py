"""Which vectors of an utterance belong to one token: its units, as weights of the positions.

    readout nearest     every position is a unit of its own, those nearest to the pad token are none
    readout ctc         a run of positions with the same nearest row is one, blanks are none:   - 7 7 - 7 9 9  ->  7 7 9
    readout cif         positions are split where the sum of their firing weights passes 1, 2, ...
                        firing    0.4  0.7  0.6  0.5  0.1         sum 2.3: two units
                        unit 0    0.4  0.6  .    .    .
                        unit 1    .    0.1  0.6  0.3  .           what is left, below one half, is dropped
                        (continuous integrate-and-fire, arXiv 1905.11235; used like this in arXiv 2609.18516)

Each row of the weights sums to 1, so `weights_BNU @ x` is the (weighted) mean of x over each unit.

Shapes: B batch, U vectors, N units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

ROUNDED_UP = 0.5  # of a unit's weight that an utterance's last unit needs


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a batch.

    Attributes:
        weights_BNU: float32, each position's weight in each unit; zero beyond an utterance's units.
        units_B: number of units of each utterance, int64.
    """

    weights_BNU: torch.Tensor
    units_B: torch.Tensor


def single_units(labels_BU: torch.Tensor) -> Units:
    """Every position with a label (not -1) is a unit."""
    return _units(labels_BU >= 0, labels_BU >= 0)


def run_units(labels_BU: torch.Tensor) -> Units:
    """Every run of one label (not -1) is a unit."""
    before_BU = torch.nn.functional.pad(labels_BU, (1, 0), value=-1)[:, :-1]
    return _units(labels_BU >= 0, (labels_BU >= 0) & (labels_BU != before_BU))


def _units(member_BU: torch.Tensor, start_BU: torch.Tensor) -> Units:
    units_B = start_BU.sum(dim=1)
    number_1N1 = torch.arange(int(units_B.max()), device=units_B.device)[None, :, None]
    unit_B1U = (start_BU.cumsum(dim=1) - 1)[:, None, :]
    weights_BNU = ((unit_B1U == number_1N1) & member_BU[:, None, :]).float()
    return Units(weights_BNU / weights_BNU.sum(dim=2, keepdim=True).clamp(min=1), units_B)


def fired_units(firing_BU: torch.Tensor) -> Units:
    """Units by continuous integrate-and-fire; the weights are differentiable in `firing_BU` (float32)."""
    after_BU = firing_BU.cumsum(dim=1)
    before_BU = after_BU - firing_BU
    units_B = (after_BU[:, -1].detach() + 1 - ROUNDED_UP).floor().long()
    number_1N1 = torch.arange(int(units_B.max()), device=units_B.device)[None, :, None]
    upper_BNU = after_BU[:, None, :].clamp(max=number_1N1 + 1)
    weights_BNU = (upper_BNU - before_BU[:, None, :].clamp(min=number_1N1)).clamp(min=0)
    weights_BNU = weights_BNU * (number_1N1 < units_B[:, None, None])
    return Units(weights_BNU / weights_BNU.sum(dim=2, keepdim=True).clamp(min=1e-6), units_B)


def with_rest_first(units: Units, rest_BU: torch.Tensor) -> Units:
    """The same units with one more before them: the mean of the positions `rest_BU`, where an utterance has any."""
    count_B = rest_BU.sum(dim=1)
    rest_B1U = (rest_BU / count_B.clamp(min=1)[:, None])[:, None, :]
    shifted_BNU = torch.cat([rest_B1U, units.weights_BNU], dim=1)
    unshifted_BNU = torch.nn.functional.pad(units.weights_BNU, (0, 0, 0, 1))
    has_rest_B = count_B > 0
    return Units(torch.where(has_rest_B[:, None, None], shifted_BNU, unshifted_BNU), units.units_B + has_rest_B)
