"""Noise has the wanted size, lies where its kind says, and is the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from speechmapper.eval.eet.noise import NOISE, gaussian, mix
from tests.speechmapper.tiny import llama

TABLE = llama().get_input_embeddings().weight.detach()
TRUE = TABLE[torch.tensor([5, 9, 9, 20, 33, 40, 7])]
SIZE = 0.05


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def errors(noisy: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each position."""
    return torch.stack([((row - true) ** 2).mean() for row, true in zip(noisy, TRUE, strict=True)])


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("size", [1e-6, SIZE, 0.2])
def test_the_mean_error_is_the_wanted_one(kind, size):
    for seed in range(3):
        assert float(errors(NOISE[kind](TRUE, TABLE, size, seeded(seed))).mean()) == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize("kind", NOISE)
def test_no_noise_gives_the_embeddings_themselves(kind):
    assert torch.equal(NOISE[kind](TRUE, TABLE, 0.0, seeded()), TRUE)


@pytest.mark.parametrize("kind", NOISE)
def test_the_same_seed_gives_the_same_and_another_gives_another(kind):
    first = NOISE[kind](TRUE, TABLE, SIZE, seeded(1))
    assert torch.equal(first, NOISE[kind](TRUE, TABLE, SIZE, seeded(1)))
    assert not torch.allclose(first, NOISE[kind](TRUE, TABLE, SIZE, seeded(2)))


@pytest.mark.parametrize("kind", NOISE)
def test_a_larger_size_goes_further_in_the_same_directions(kind):
    small, large = (NOISE[kind](TRUE, TABLE, size, seeded()) - TRUE for size in (SIZE / 100, SIZE))
    torch.testing.assert_close(large, 10 * small, rtol=1e-3, atol=1e-5)


def test_gaussian_noise_is_normal_in_every_dimension():
    true = torch.zeros(4000, 6)
    noise = gaussian(true, TABLE, 4.0, seeded())
    assert noise.mean(dim=0).abs().max() < 0.15
    assert noise.std(dim=0) == pytest.approx(torch.full((6,), 2.0), rel=0.05)
    assert float((noise.abs() < 2.0).double().mean()) == pytest.approx(0.6827, abs=0.02)


def test_a_mix_has_the_wanted_error_at_every_position():
    assert errors(mix(TRUE, TABLE, SIZE, seeded())) == pytest.approx(torch.full((len(TRUE),), SIZE), rel=1e-4)


def test_a_mix_lies_between_its_embedding_and_another_row():
    for noisy, true in zip(mix(TRUE, TABLE, SIZE, seeded()), TRUE, strict=True):
        way_VE = TABLE - true
        share_V = (way_VE @ (noisy - true)) / way_VE.square().sum(dim=1).clamp(min=1e-12)
        off_V = (true + share_V[:, None] * way_VE - noisy).norm(dim=1)
        row = int(off_V.argmin())
        assert off_V[row] < 1e-5
        assert 0 < share_V[row] <= 1


def test_rows_too_near_for_the_error_are_drawn_again():
    """Three of four rows are near; only the far one can be mixed with."""
    table = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [4.0, 0.0]])
    noisy = mix(table[:1].expand(50, 2), table, 2.0, seeded())
    torch.testing.assert_close(noisy, torch.tensor([[2.0, 0.0]]).expand(50, 2))


def test_an_error_beyond_every_row_ends_at_a_row():
    noisy = mix(TRUE, TABLE, 1e6, seeded())
    assert torch.cdist(noisy, TABLE).min(dim=1).values.max() < 1e-2
