import pytest
import torch
from mekrr.kernels.paths import PriorPaths

from mekrr.kernels import GaussianKernel, LinearKernel, PolynomialKernel, mixed
from support import random_environments

KERNELS = [GaussianKernel(1.8), LinearKernel(0.9)]
DRAWS = 4000


@pytest.fixture
def x():
    return random_environments([7], 3, species=(1, 29))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0])
def test_covariance_over_draws_is_the_kernel(kernel, w, x):
    """Monte-Carlo error of a covariance of unit variances is sqrt(2 / draws), that of the Fourier basis alike."""
    values = PriorPaths(kernel, w, 3, DRAWS, seed=1).values(x.features, x.species)
    K = mixed(kernel.values(x.features, x.features), x.species, x.species, w)
    error = 5 * (2 / DRAWS + (2 / 2048 if kernel.name == "gaussian" else 0)) ** 0.5 * float(K.diagonal().max())
    assert len(torch.unique(x.species)) == 2
    torch.testing.assert_close(values @ values.T / DRAWS, K, rtol=0, atol=error)
    assert values.mean(1).abs().max() < 5 * float(K.diagonal().max().sqrt()) / DRAWS**0.5


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_slopes_are_the_derivatives_of_values(kernel, x):
    paths = PriorPaths(kernel, 0.3, 3, 4, seed=2)
    step = 1e-5
    for draw in range(4):
        slopes = paths.slopes(x.features, x.species, draw)
        for feature in range(3):
            move = torch.zeros(3, dtype=torch.float64)
            move[feature] = step
            up, down = (paths.values(x.features + s * move, x.species)[:, draw] for s in (1, -1))
            torch.testing.assert_close(slopes[:, feature], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


def test_a_species_has_the_same_function_wherever_it_stands(x):
    """Not only alone: draws must not depend on the other atoms asked about, nor on the order of species."""
    paths, again = (
        PriorPaths(GaussianKernel(1.0), 0.5, 3, 5, seed=3),
        PriorPaths(GaussianKernel(1.0), 0.5, 3, 5, seed=3),
    )
    whole = paths.values(x.features, x.species)
    for atom in reversed(range(7)):
        alone = again.values(x.features[atom : atom + 1], x.species[atom : atom + 1])
        torch.testing.assert_close(alone[0], whole[atom])
    other = PriorPaths(GaussianKernel(1.0), 0.5, 3, 5, seed=4).values(x.features, x.species)
    assert not torch.allclose(other, whole, atol=0.1)


def test_polynomial_kernels_are_refused():
    with pytest.raises(ValueError, match="gaussian and linear kernels, not polynomial"):
        PriorPaths(PolynomialKernel(1.0), 0.5, 3, 2)
