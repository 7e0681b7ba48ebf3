import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mekrr.data import (
    Structure,
    composition_matrix,
    fit_composition_reference,
    is_isolated_atom,
    isolated_atom_energies,
    outside_row_space,
)
from mekrr.errors import DataError

FORMATE = [29] * 48 + [6, 1, 8, 8]


def test_matrix_counts_species_and_structures_alike():
    counts, elements = composition_matrix([Structure(Atoms("H2O")), [1, 1, 8, 6]])
    assert elements == (1, 6, 8)
    np.testing.assert_array_equal(counts, [[2, 0, 1], [2, 1, 1]])


def test_matrix_with_given_columns():
    counts, elements = composition_matrix([[8, 8]], elements=(1, 8, 29))
    assert elements == (1, 8, 29)
    np.testing.assert_array_equal(counts, [[0, 2, 0]])
    with pytest.raises(DataError, match="structure 1 has C, but only H, O are known"):
        composition_matrix([[1], [6, 1]], elements=(1, 8))


@settings(max_examples=25, deadline=None)
@given(arrays(float, 3, elements=st.floats(-100, 100)), st.integers(0, 1000))
def test_fit_recovers_energies_per_element(energies, seed):
    counts = np.random.default_rng(seed).integers(0, 9, (12, 3)).astype(float) + np.eye(3)[np.arange(12) % 3]
    fit = fit_composition_reference(counts, counts @ energies, (1, 6, 8))
    if fit.is_unique:
        np.testing.assert_allclose(fit.energies, energies, atol=1e-7)
    np.testing.assert_allclose(fit(counts), counts @ energies, atol=1e-7)


def test_one_composition_gives_the_minimum_norm():
    counts, elements = composition_matrix([FORMATE] * 3)
    fit = fit_composition_reference(counts, np.array([-10.0, -11.0, -12.0]), elements)
    assert fit.rank == 1
    assert not fit.is_unique
    np.testing.assert_allclose(fit(counts), -11.0)
    np.testing.assert_allclose(fit.energies, -11.0 * counts[0] / (counts[0] @ counts[0]))


def test_isolated_atoms_can_be_fixed():
    counts, elements = composition_matrix([FORMATE] * 3)
    fit = fit_composition_reference(counts, np.full(3, -200.0), elements, fixed={1: -1.0, 6: -2.0, 8: -3.0})
    assert fit.is_unique
    np.testing.assert_allclose(fit.energies, [-1, -2, -3, (-200 + 9) / 48])


def test_weights_favour_small_structures():
    counts = np.array([[1.0], [10.0]])
    energies = np.array([-1.0, -20.0])
    even = fit_composition_reference(counts, energies, (1,)).energies[0]
    assert fit_composition_reference(counts, energies, (1,), weights=np.array([1.0, 0.01])).energies[0] > even
    with pytest.raises(ValueError, match="finite energies"):
        fit_composition_reference(counts, np.array([np.nan, 0.0]), (1,))


def test_outside_row_space_names_the_combination():
    train, elements = composition_matrix([FORMATE, FORMATE * 2])
    new, _ = composition_matrix([[29] * 48, FORMATE * 3, [29] * 48 + [6, 8, 8, 8]], elements)
    outside, names = outside_row_space(train, new, elements)
    np.testing.assert_array_equal(outside, [True, False, True])
    assert names[0] == "Cu48 differs from CHCu48O2 by removing 1 H, 1 C and 2 O"
    assert names[1] == ""
    assert names[2] == "CCu48O3 differs from CHCu48O2 by adding 1 O and removing 1 H"


def test_more_compositions_determine_more():
    train, elements = composition_matrix([FORMATE, [29] * 48, [29] * 12])
    new, _ = composition_matrix([FORMATE + [29] * 5, [*FORMATE, 1]], elements)
    np.testing.assert_array_equal(outside_row_space(train, new, elements)[0], [False, True])


def test_isolated_atoms_are_recognised():
    box = Atoms("Cu", cell=[12, 12, 12], pbc=True)
    assert is_isolated_atom(Structure(Atoms("H")))
    assert is_isolated_atom(Structure(box))
    assert not is_isolated_atom(Structure(bulk("Cu")))
    assert not is_isolated_atom(Structure(Atoms("Cu", cell=[2.5, 2.5, 20], pbc=[True, True, False])))
    assert not is_isolated_atom(Structure(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])))
    energies = isolated_atom_energies([Structure(box, -0.2), Structure(box, -0.3), Structure(bulk("Cu"), -3.7)])
    assert energies == {29: -0.3}
