import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.data import Structure, from_ase
from mekrr.data.checking.duplicates import duplicate_groups, have_equal_labels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_order_and_periodic_images_do_not_matter(seed):
    generator = np.random.default_rng(seed)
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    atoms.rattle(0.1, rng=generator)
    other = atoms[generator.permutation(len(atoms))]
    other.positions += generator.integers(-2, 3, (12, 3)) @ atoms.cell.array
    np.testing.assert_array_equal(duplicate_groups([Structure(atoms), Structure(other)]), [0, 0])


def test_differences_that_matter():
    atoms = molecule("CH3CH2OH")
    moved, swapped, boxed = atoms.copy(), atoms.copy(), atoms.copy()
    moved.positions[3, 1] += 1e-3
    swapped.positions[[0, 1]] = swapped.positions[[1, 0]]  # C and C: the same
    swapped.positions[[1, 2]] = swapped.positions[[2, 1]]  # C and O: another molecule
    boxed.set_cell([9, 9, 9])
    boxed.pbc = True
    structures = [Structure(a) for a in (atoms, moved, swapped, boxed, atoms)]
    np.testing.assert_array_equal(duplicate_groups(structures), [0, 1, 2, 3, 0])


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_labels(slab, name):
    slab.calc.results["stress"] = np.zeros(6)
    structure = from_ase(slab)
    assert have_equal_labels(structure, structure)
    changed = getattr(structure, name) + 0.1
    assert not have_equal_labels(structure, dataclasses.replace(structure, **{name: changed}))
    assert have_equal_labels(structure, dataclasses.replace(structure, **{name: None}))


def test_forces_of_reordered_atoms(slab):
    order = np.random.default_rng(1).permutation(12)
    forces = slab.get_forces()
    one = Structure(slab, forces=forces)
    assert have_equal_labels(one, Structure(slab[order], forces=forces[order]))
    assert not have_equal_labels(one, Structure(slab[order], forces=1.1 * forces[order]))


def test_none_and_one():
    assert len(duplicate_groups([])) == 0
    np.testing.assert_array_equal(duplicate_groups([Structure(molecule("H2O"))]), [0])


def test_supercells_of_different_structures_differ():
    atoms = fcc111("Cu", (2, 1, 2), vacuum=6.0, periodic=True)
    other = atoms.copy()
    other.positions[0] += 0.2
    for repeats in ((2, 2, 2), (3, 3, 1), (4, 2, 1)):
        structures = [Structure(a.repeat(repeats)) for a in (atoms, other, atoms)]
        np.testing.assert_array_equal(duplicate_groups(structures), [0, 1, 0])


@pytest.mark.parametrize("cell", [None, [1.0, 1.0, 1.0], [0, 0, 2.0], [9, 9, 1.0]])
@pytest.mark.parametrize("pbc", [False, [True, False, False], [True, True, False]])
def test_only_periodic_directions_wrap(cell, pbc):
    """A bond that is longer by 1 Angstrom, or by the height of a cell that does not repeat, is another bond."""
    if cell is None or not any(cell):
        pbc = False
    cell = [9, 9, 1.0] if cell == [0, 0, 2.0] and np.any(pbc) else cell
    bonds = [Atoms("O2", [[0, 0, 0], [0, 0, z]], cell=cell, pbc=pbc) for z in (1.25, 2.25, 3.25, 1.25)]
    np.testing.assert_array_equal(duplicate_groups([Structure(a) for a in bonds]), [0, 1, 2, 0])


def test_a_slab_moved_by_its_empty_height_is_another():
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    slab.pbc = [True, True, False]
    moved, image = slab.copy(), slab.copy()
    moved.positions[0] += slab.cell[2]
    image.positions[0] += slab.cell[0]
    np.testing.assert_array_equal(duplicate_groups([Structure(a) for a in (slab, moved, image)]), [0, 1, 0])


def test_thousands_of_the_same(slab):
    """Without a look at the bits first, a tree would give millions of pairs, each of which is compared."""
    moved = slab.copy()
    moved.positions[:, 0] += 1e-2
    first = duplicate_groups([Structure(slab.copy() if k % 2 else moved.copy()) for k in range(3000)])
    np.testing.assert_array_equal(first, np.arange(3000) % 2)


def test_repetitions_and_what_is_near_them(slab):
    near = slab.copy()
    near.positions[0] += 1e-6
    np.testing.assert_array_equal(duplicate_groups([Structure(a) for a in (slab, near, slab, near)]), [0, 0, 0, 0])


def test_atoms_that_coincide_equal_nothing(slab):
    """No atom is the nearest of two, so that such structures are not matched, repeated to the last bit or not."""
    slab.positions[1] = slab.positions[0]
    np.testing.assert_array_equal(duplicate_groups([Structure(slab), Structure(slab)]), [0, 1])
