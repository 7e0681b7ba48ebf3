import pytest
import torch

from mekrr.kernels import Component, GaussianKernel, LinearKernel, PriorDraws, StructureKernel
from support import random_environments

DRAWS = 1000
KERNELS = {
    "gaussian, w = 0": StructureKernel.weighted(GaussianKernel(1.8), 0.0),
    "gaussian, w = 0.4": StructureKernel.weighted(GaussianKernel(1.8), 0.4),
    "linear, w = 1": StructureKernel.weighted(LinearKernel(0.9), 1.0),
    "two gaussians": StructureKernel(
        (Component(GaussianKernel(4.0), 0.7, 0.3), Component(GaussianKernel(1.0), 0.0, 2.0))
    ),
    "gaussian and linear": StructureKernel(
        (Component(GaussianKernel(2.0), 0.4, 0.9), Component(LinearKernel(1.0), 0.3, 0.1))
    ),
}


@pytest.fixture(scope="module")
def atoms():
    return random_environments([7], 3, species=(1, 29))


@pytest.mark.parametrize("name", list(KERNELS))
def test_covariance_over_draws_is_the_kernel(name, atoms):
    """Monte-Carlo error of a covariance of unit variances is sqrt(2 / draws), that of the Fourier basis alike."""
    kernel = KERNELS[name]
    values = PriorDraws(kernel, atoms.features, DRAWS, seed=1).values(atoms.features, atoms.species)
    K = kernel.between_atoms(atoms, atoms)
    largest = float(K.diagonal().max())
    error = 4 * (2 / DRAWS + (0 if "linear, " in name else 2 / 2048)) ** 0.5 * largest
    assert len(torch.unique(atoms.species)) == 2
    torch.testing.assert_close(values @ values.T / DRAWS, K, rtol=0, atol=error)
    assert values.mean(1).abs().max() < 4 * largest**0.5 / DRAWS**0.5


@pytest.mark.parametrize("name", list(KERNELS))
def test_slopes_are_the_derivatives_of_values(name, atoms):
    draws = PriorDraws(KERNELS[name], atoms.features, 2, seed=2)
    step = 1e-5
    for draw in range(2):
        slopes = draws.slopes(atoms.features, atoms.species, draw)
        for feature in range(3):
            move = torch.zeros(3, dtype=torch.float64)
            move[feature] = step
            up, down = (draws.values(atoms.features + s * move, atoms.species)[:, draw] for s in (1, -1))
            torch.testing.assert_close(slopes[:, feature], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


def test_components_are_drawn_independently(atoms):
    """Two equal components: twice the variance, not the fourfold one of the same draw added twice."""
    one = StructureKernel.weighted(LinearKernel(0.9), 0.5)
    values = PriorDraws(one + one, atoms.features, DRAWS, seed=1).values(atoms.features, atoms.species)
    expected = 2 * float(one.between_equal_atoms(atoms).mean())
    assert float(values.square().mean()) == pytest.approx(expected, rel=0.2)


def test_a_species_has_the_same_function_wherever_it_stands(atoms):
    """Not only alone: draws must not depend on the other atoms asked about, nor on the order of species."""
    kernel = KERNELS["two gaussians"]
    draws, again = (PriorDraws(kernel, atoms.features, 5, seed=3) for _ in range(2))
    whole = draws.values(atoms.features, atoms.species)
    for atom in reversed(range(7)):
        alone = again.values(atoms.features[atom : atom + 1], atoms.species[atom : atom + 1])
        torch.testing.assert_close(alone[0], whole[atom])
    other = PriorDraws(kernel, atoms.features, 5, seed=4).values(atoms.features, atoms.species)
    assert not torch.allclose(other, whole, atol=0.1)
