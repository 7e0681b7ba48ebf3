"""Equal structures, whatever the order of their atoms and the periodic image each is given in."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from ase import Atoms
from ase.cell import Cell
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from mekrr.data.checking.distances import completed
from mekrr.data.reading.structure import Structure, formula
from mekrr.typing import Float, Int, ndarray

TOLERANCE = 2e-5
"""Structures whose sketches differ by less are equal: positions agree to about 1e-4 Angstrom."""

COINCIDENCE = 1e-2
"""Angstrom; looser than the sketch, which decides: atoms are never so near to one another."""

AT_ONCE = 20_000
"""Atoms whose structure factors are computed together."""

_WAVES = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, -1, 2], [2, 1, -1], [-1, 2, 1], [3, 1, 2], [1, 3, -2], [2, -2, 3]]
)
_ENERGY_PER_ATOM, _ENERGY, _FORCES, _STRESS = 1e-5, 1e-4, 5e-3, 1e-4


def duplicate_groups(structures: Sequence[Structure]) -> Int[ndarray, "structures"]:
    """For each structure the index of the first that equals it: its own where none does.

    Equal means the same species at the same positions in the same cell, up to lattice translations of single atoms
    and the order of the atoms, to about 1e-4 Angstrom.
    """
    first = np.arange(len(structures))
    alike: dict[tuple, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        alike[formula(structure.atoms), tuple(structure.atoms.pbc)].append(i)
    for indices in alike.values():
        if len(indices) > 1:
            members = np.array(indices)
            first[members] = members[_first_equal([structures[i].atoms for i in indices])]
    return first


def _first_equal(family: Sequence[Atoms]) -> np.ndarray:
    """For each of some structures of one composition and periodicity, the position of the first that equals it."""
    first, twins = _to_the_last_bit(family)
    # of what is repeated a thousand times, a tree would give half a million pairs
    near = first[cKDTree(_sketches([family[i] for i in first])).query_pairs(TOLERANCE, output_type="ndarray")]
    found = [(i, j) for i, j in [*twins, *near.tolist()] if _coincide(family[i], family[j])]
    pairs = np.array(found, dtype=int).reshape(-1, 2)
    links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(family),) * 2)
    _, component = connected_components(links, directed=False)
    _, first_of = np.unique(component, return_index=True)
    return first_of[component]


def _to_the_last_bit(family: Sequence[Atoms]) -> tuple[Int[ndarray, "distinct"], list[tuple[int, int]]]:
    """The first of each that is repeated with all its bits, and pairs of such a first and a repetition."""
    first: dict[bytes, int] = {}
    twins = []
    for i, atoms in enumerate(family):
        digest = blake2b(atoms.positions.tobytes(), digest_size=16)
        digest.update(atoms.numbers.tobytes() + atoms.cell.array.tobytes())
        j = first.setdefault(digest.digest(), i)
        twins += [(j, i)] if j != i else []
    return np.array(list(first.values())), twins


def _coincide(one: Atoms, other: Atoms) -> bool:
    """Whether every atom of one lies on an atom of the same species of the other.

    Sketches alone do not tell: all their waves vanish for the supercell of any structure.
    """
    frame = _frame(one)
    here, there = (_wrapped(frame.scaled_positions(atoms.positions), one.pbc) for atoms in (one, other))
    # a box of no size is how scipy is told not to wrap
    distance, partner = cKDTree(there, boxsize=np.where(one.pbc, 1.0, 0.0)).query(here)
    matched = len(set(partner.tolist())) == len(one)
    reach = COINCIDENCE / np.linalg.norm(frame.array, axis=1).min()
    return bool(matched and distance.max() < reach and np.array_equal(one.numbers, other.numbers[partner]))


def _frame(atoms: Atoms) -> Cell:
    """The lattice vectors along which the structure repeats, and unit vectors for the rest."""
    return _repeating(atoms).complete()


def _repeating(atoms: Atoms) -> Cell:
    return Cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))


def _wrapped(scaled: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Scaled positions in [0, 1) along periodic directions, rounding included."""
    return np.where(pbc, scaled % 1.0 % 1.0, scaled)


def _sketches(family: Sequence[Atoms]) -> Float[ndarray, "structures numbers"]:
    """The cell and a few structure factors, which know neither the order of atoms nor their periodic images."""
    step = max(1, AT_ONCE // len(family[0]))
    return np.concatenate([_some_sketches(family[k : k + step]) for k in range(0, len(family), step)])


def _some_sketches(family: Sequence[Atoms]) -> Float[ndarray, "structures numbers"]:
    frames = np.stack([completed(_repeating(atoms)) for atoms in family])
    positions = np.stack([atoms.positions for atoms in family])
    scaled = np.linalg.solve(frames.swapaxes(1, 2), positions.swapaxes(1, 2)).swapaxes(1, 2)
    marks = 1.0 + (0.618033988749895 * np.stack([atoms.numbers for atoms in family])) % 1.0  # tells the species apart
    factors = np.einsum("ti,tiw->tw", marks, np.exp(2j * np.pi * scaled @ _WAVES.T))
    cells = np.stack([atoms.cell.array.ravel() for atoms in family])
    return np.concatenate([cells, factors.real, factors.imag], axis=1)


def have_equal_labels(one: Structure, other: Structure) -> bool:
    """Whether the labels that both of two equal structures have agree to the precision of a DFT calculation."""
    return _energies_agree(one, other) and _forces_agree(one, other) and _stresses_agree(one, other)


def _energies_agree(one: Structure, other: Structure) -> bool:
    if one.energy is None or other.energy is None:
        return True
    return abs(one.energy - other.energy) <= max(_ENERGY, _ENERGY_PER_ATOM * len(one))


def _forces_agree(one: Structure, other: Structure) -> bool:
    """Whether forces agree, atom by atom or, for another order of the atoms, by their sorted norms."""
    if one.forces is None or other.forces is None:
        return True
    if np.array_equal(one.species, other.species) and np.allclose(one.forces, other.forces, rtol=0, atol=_FORCES):
        return True
    if np.allclose(one.atoms.positions, other.atoms.positions, rtol=0, atol=1e-3):
        return False
    norms = (np.sort(np.linalg.norm(forces, axis=1)) for forces in (one.forces, other.forces))
    return bool(np.allclose(next(norms), next(norms), rtol=0, atol=_FORCES))


def _stresses_agree(one: Structure, other: Structure) -> bool:
    if one.stress is None or other.stress is None:
        return True
    return bool(np.allclose(one.stress, other.stress, rtol=0, atol=_STRESS))
