"""build_batch against a brute-force oracle and the symmetries of a periodic structure."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.graph import build_batch


def brute_force_edges(atoms, cutoff):
    """Every (centre, neighbour, shift) within the cutoff, by looking at all of them."""
    reach = [0, 0, 0]
    for axis in np.flatnonzero(atoms.pbc):
        normal = np.cross(*np.delete(atoms.cell.array, axis, axis=0)) if atoms.pbc.all() else None
        height = atoms.cell.volume / np.linalg.norm(normal) if normal is not None else 1.0
        spread = np.ptp(atoms.positions, axis=0).max() if len(atoms) > 1 else 0.0
        reach[axis] = int(np.ceil((cutoff + np.sqrt(3) * spread) / height)) + 1
    found = set()
    for shift in itertools.product(*(range(-n, n + 1) for n in reach)):
        vectors = atoms.positions[None] - atoms.positions[:, None] + np.array(shift) @ atoms.cell.array
        for i, j in np.argwhere(np.linalg.norm(vectors, axis=2) <= cutoff):
            if i != j or any(shift):
                found.add((int(i), int(j), *shift))
    return found


def edge_set(batch):
    rows = torch.cat([batch.centre[:, None], batch.neighbour[:, None], batch.shifts.long()], dim=1)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    return {tuple(row) for row in rows.tolist()}


def random_atoms(seed, pbc, size=3.0):
    rng = np.random.default_rng(seed)
    cell = size * (np.eye(3) + 0.3 * rng.normal(size=(3, 3)).clip(-0.8, 0.8))
    return Atoms("CuOHCuC", positions=rng.uniform(-1.0, 2.0, (5, 3)) * size, cell=cell, pbc=pbc)


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
def test_edges_equal_brute_force_for_every_periodicity(pbc):
    atoms = random_atoms(1, pbc)
    assert edge_set(build_batch([atoms], 4.0)) == brute_force_edges(atoms, 4.0)


def test_cell_smaller_than_cutoff_sees_its_own_images():
    atoms = bulk("Cu")
    batch = build_batch([atoms], 6.0)
    assert edge_set(batch) == brute_force_edges(atoms, 6.0)
    assert batch.positions.dtype == torch.float64


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_lattice_translations_leave_edge_vectors_alone(seed, data):
    atoms = random_atoms(seed % 100, pbc=True)
    moved = atoms.copy()
    shifts = data.draw(st.lists(st.integers(-3, 3), min_size=15, max_size=15))
    moved.positions += np.reshape(shifts, (5, 3)) @ atoms.cell.array
    before, after = build_batch([atoms], 4.0), build_batch([moved], 4.0)
    for centre in range(5):
        a, b = (np.array(sorted(map(tuple, edge_rows(batch, centre)))) for batch in (before, after))
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-9)


def edge_rows(batch, centre):
    vectors = batch.edge_vectors()[batch.centre == centre]
    return torch.cat([batch.neighbour[batch.centre == centre][:, None], vectors.round(decimals=8)], dim=1).numpy()


def test_both_directions_of_every_pair_are_present():
    edges = edge_set(build_batch([random_atoms(3, (True, True, False))], 4.0))
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in edges} == edges


def test_mixed_batch_is_the_structures_side_by_side():
    parts = [bulk("Cu", cubic=True), molecule("H2O"), Atoms("H"), fcc111("Pt", (2, 2, 2), vacuum=8.0)]
    batch = build_batch(parts, 5.0)
    assert batch.n_atoms.tolist() == [4, 3, 1, 8]
    assert torch.equal(batch.centre, batch.centre.sort().values)
    offset = 0
    for index, atoms in enumerate(parts):
        alone = build_batch([atoms], 5.0)
        mine = batch.structure[batch.centre] == index
        assert torch.equal(batch.centre[mine] - offset, alone.centre)
        assert torch.equal(batch.edge_vectors()[mine], alone.edge_vectors())
        offset += len(atoms)


def test_isolated_atom_has_no_edges():
    assert len(build_batch([Atoms("H", cell=np.eye(3) * 20, pbc=True)], 5.0).centre) == 0


def test_cap_keeps_the_nearest():
    atoms = random_atoms(5, pbc=True)
    full, capped = build_batch([atoms], 5.0), build_batch([atoms], 5.0, max_neighbours=7)
    for centre in range(5):
        lengths = full.edge_vectors().norm(dim=1)[full.centre == centre].sort().values
        kept = capped.edge_vectors().norm(dim=1)[capped.centre == centre].sort().values
        torch.testing.assert_close(kept, lengths[:7])


def test_cap_breaks_ties_by_the_lower_index():
    atoms = Atoms("HHHHH", positions=[[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    batch = build_batch([atoms], 1.1, max_neighbours=2)
    assert batch.neighbour[batch.centre == 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), "at least one atom"),
        (Atoms("H", positions=[[np.nan, 0, 0]]), "finite"),
        (Atoms("H", pbc=True), "lattice vector"),
        (Atoms("HH", positions=[[0, 0, 0], [0, 0, 0]]), "coincide.*0 and 1"),
        # searched for neighbours, these end the process or fill the memory
        (Atoms("HH", positions=[[0, 0, 0], [0, 0, 9e7]]), "9e.07 Angstrom apart"),
        (Atoms("HH", positions=[[0, 0, 0], [0, 0, 9e7]], cell=[5, 5, 0], pbc=[1, 1, 0]), "9e.07 Angstrom apart"),
        (Atoms("H", cell=[5, 5, 1e9], pbc=True), "1e.09 Angstrom long"),
        (Atoms("H", cell=[0.01, 0.01, 0.01], pbc=True), "so small"),
    ],
)
def test_unusable_structure_is_named(atoms, message):
    with pytest.raises(ValueError, match=f"structure 1 of the batch.*{message}"):
        build_batch([molecule("H2O"), atoms], 5.0)


def test_what_moves_far_through_periodic_images_is_usable():
    """Unwrapped trajectories and thin slabs in a tall box are no absurd extents."""
    slab = Atoms("Cu", positions=[[1e6, -1e6, 3.0]], cell=[3, 3, 60], pbc=[True, True, False])
    assert len(build_batch([slab], 5.0).centre) == 8


@pytest.mark.parametrize(("arguments", "message"), [((0.0,), "cutoff"), ((5.0, 0), "max_neighbours")])
def test_limits_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_batch([molecule("H2O")], *arguments)


def test_no_structure_is_refused():
    with pytest.raises(ValueError, match="at least one structure"):
        build_batch([], 5.0)
