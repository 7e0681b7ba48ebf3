import numpy as np
import pytest
from ase.build import bulk

from mekrr.data import Structure
from mekrr.potential import Prediction
from mekrr_comparison.errors import errors_of, ruling


@pytest.fixture
def structures():
    return [Structure(bulk("Cu"), 0.0, np.zeros((1, 3)), source="a.extxyz", index=k) for k in range(40)]


def test_the_few_that_hold_half_of_a_mean_square_are_named(structures):
    squares = np.ones(40)
    squares[[7, 12]] = 50.0, 30.0
    found = ruling(structures, squares)
    assert found["structures"] == ["a.extxyz, index 7 (Cu)", "a.extxyz, index 12 (Cu)"]
    assert found["share"] == pytest.approx(80 / 118)


@pytest.mark.parametrize("squares", [np.ones(40), np.zeros(40), np.repeat([25.0, 1.0], [3, 37])])
def test_nobody_is_named_where_errors_are_alike(structures, squares):
    assert ruling(structures, squares) == {}


def test_two_structures_are_too_few_to_name_one(structures):
    assert ruling(structures[:2], np.array([9.0, 1.0])) == {}


def test_energies_and_forces_have_rulers_of_their_own(structures):
    energies, forces = np.full(40, 0.001), np.full((40, 1, 3), 0.01)
    energies[3], forces[5] = 1.0, 2.0
    found = errors_of(structures, [Prediction(e, forces=f) for e, f in zip(energies, forces, strict=True)])
    assert found["ruled_by"]["energy"]["structures"] == ["a.extxyz, index 3 (Cu)"]
    assert found["ruled_by"]["forces"]["structures"] == ["a.extxyz, index 5 (Cu)"]
