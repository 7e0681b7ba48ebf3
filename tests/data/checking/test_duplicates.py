import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.data import Structure, from_ase
from mekrr.data.checking.duplicates import distinct, duplicate_groups, have_equal_labels, sketches_of


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


@pytest.mark.parametrize("decimals", [4, 5, 6, 7])
@pytest.mark.parametrize("periodic", [False, True])
def test_structures_written_with_fewer_digits_are_the_same(decimals, periodic):
    """Frames of dynamics, all different, beside themselves as another program writes them."""
    generator = np.random.default_rng(decimals)
    still = fcc111("Cu", (3, 3, 3), vacuum=6.0, periodic=True) if periodic else molecule("CH3CH2OH")
    frames, written = [], []
    for _ in range(60):
        atoms = still.copy()
        atoms.positions += generator.normal(0, 0.03, atoms.positions.shape)
        other = atoms.copy()
        other.set_cell(atoms.cell.array.round(decimals))
        other.positions = atoms.positions.round(decimals)
        frames.append(Structure(atoms))
        written.append(Structure(other))
    np.testing.assert_array_equal(duplicate_groups([*frames, *written]), [*range(60), *range(60)])


def test_a_molecule_moved_as_a_whole_is_the_same_and_a_strained_cell_is_not():
    atoms = molecule("CH3CH2OH")
    moved = atoms.copy()
    moved.positions += [0.5, -3.0, 11.0]
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    strained = slab.copy()
    strained.set_cell(slab.cell.array * 1.0002, scale_atoms=True)
    found = duplicate_groups([Structure(a) for a in (atoms, moved, slab, strained)])
    np.testing.assert_array_equal(found, [0, 0, 2, 3])


def test_small_steps_do_not_join_a_trajectory():
    """Each frame equals the next, and the last is far from the first."""
    frames = []
    for k in range(40):
        atoms = molecule("H2O")
        atoms.positions[0, 2] += 1e-4 * k
        frames.append(Structure(atoms))
    first = duplicate_groups(frames)
    assert 10 < len(set(first.tolist())) < 40
    assert all(k - first[k] <= 4 for k in range(40))


def test_of_equal_structures_that_with_the_most_labels_is_kept(slab):
    """In the place of the first, whatever their order."""
    whole = from_ase(slab)
    bare = dataclasses.replace(whole, forces=None)
    other = Structure(molecule("H2O"), energy=-14.0)
    for order in ((bare, other, whole), (whole, other, bare)):
        kept = distinct(order)
        assert [s.forces is not None for s in kept] == [True, False]
        assert kept[1] is other
    assert distinct([]) == []


def test_steps_of_a_relaxation_may_differ_in_the_noise_of_their_forces(slab):
    one = from_ase(slab)
    near = slab.copy()
    near.positions[0, 0] += 1e-4
    other = Structure(near, one.energy, one.forces + 0.04)
    assert have_equal_labels(one, other)
    assert not have_equal_labels(one, dataclasses.replace(other, forces=one.forces + 0.2))
    assert not have_equal_labels(one, Structure(slab, one.energy, one.forces + 0.04))


def test_sketches_are_in_the_order_of_their_structures():
    structures = [Structure(molecule(name)) for name in ("H2O", "CH4", "NH3", "CO2", "H2O")]
    together = sketches_of(structures)
    for k, one in enumerate(structures):
        alone = sketches_of([one])
        np.testing.assert_allclose(together.numbers[k], alone.numbers[0], rtol=0, atol=1e-12)
        assert together.reach[k] == pytest.approx(alone.reach[0])
