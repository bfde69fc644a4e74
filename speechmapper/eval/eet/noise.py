"""Two kinds of noise of a given size on embeddings.

    gaussian    e + s z             z normal in every dimension: away from the table's rows, in every direction
    mix         (1 - l) e + l r     r another row of the table: towards another token

The size is the mean squared error per dimension. Gaussian noise has this size on average over all positions (one
factor scales all drawn numbers), a mix has it at every position: l follows from the distance between e and r.

    size 0.01, E = 4, |r - e|^2 = 0.16    ->    l = sqrt(0.01 * 4 / 0.16) = 0.5

The same generator state gives the same directions at every size, so a curve over sizes scales one draw.

Shapes: P positions, E LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

Noise = Callable[[torch.Tensor, torch.Tensor, float, torch.Generator], torch.Tensor]
DRAWS = 100  # attempts to draw a row that is far enough to mix with


def gaussian(true_PE: torch.Tensor, table_VE: torch.Tensor, mse: float, generator: torch.Generator) -> torch.Tensor:
    """Embeddings (P, E) with normal noise; its mean square over all positions and dimensions is `mse`.

    Args:
        true_PE: float32, on the CPU. table_VE: not used.
    """
    drawn_PE = torch.randn(true_PE.shape, generator=generator)
    factor = (mse / drawn_PE.double().square().mean()).sqrt()
    return true_PE + factor.float() * drawn_PE


def mix(true_PE: torch.Tensor, table_VE: torch.Tensor, mse: float, generator: torch.Generator) -> torch.Tensor:
    """Each embedding mixed with a random row of the table, so that its mean squared error is `mse`.

    A mix lies between its two rows, so a row nearer than the requested error is drawn again. If none of many draws
    is far enough, the last row replaces the embedding, and the error is smaller than requested.

    Args:
        true_PE, table_VE: float32, on the CPU.
    """
    requested = mse * true_PE.shape[1]  # squared error of a position
    other_PE = table_VE[torch.randint(len(table_VE), (len(true_PE),), generator=generator)]
    for _ in range(DRAWS):
        near_P = _squared_distances(true_PE, other_PE) < max(requested, torch.finfo(torch.float32).tiny)
        if not near_P.any():
            break
        again = torch.randint(len(table_VE), (int(near_P.sum()),), generator=generator)
        other_PE[near_P] = table_VE[again]
    distance_P = _squared_distances(true_PE, other_PE).clamp(min=torch.finfo(torch.float64).tiny)
    share_P = (requested / distance_P).sqrt().clamp(max=1)
    return true_PE + share_P[:, None].float() * (other_PE - true_PE)


def _squared_distances(one_PE: torch.Tensor, other_PE: torch.Tensor) -> torch.Tensor:
    return (one_PE - other_PE).double().square().sum(dim=1)


NOISE: Mapping[str, Noise] = {"gaussian": gaussian, "mix": mix}
