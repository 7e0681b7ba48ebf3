from dataclasses import replace

import pytest

from mekrr.tune import OF_ENVIRONMENTS, OF_STRUCTURES
from support import random_environments
from synthetic import ENVIRONMENT_GRID, STRUCTURE_GRID, energies_of, fields_of, problem_of


@pytest.fixture(scope="session")
def of_structures():
    """40 structures; the true length scale is 3."""
    x = random_environments([4, 5, 6, 3, 5] * 8, 6)
    return problem_of(OF_STRUCTURES, x, energies_of(x, 3.0), [None] * 40, STRUCTURE_GRID)


@pytest.fixture(scope="session")
def of_environments():
    """32 structures with derivatives; the true length scale is 4."""
    x = random_environments([4, 5, 6, 3] * 8, 4)
    energies, derivatives = fields_of(x, 4.0)
    names = ("none", "composition")
    return problem_of(OF_ENVIRONMENTS, x, energies, derivatives, ENVIRONMENT_GRID, 40, names)


@pytest.fixture
def quick(of_environments):
    """The same with one species weight and one force weight."""
    grid = replace(ENVIRONMENT_GRID, length_scales=(8.0, 8.0 / 2**0.5, 4.0), species_weights=(0.6,))
    return replace(of_environments, grid=replace(grid, force_weights=(1e-2,)))
