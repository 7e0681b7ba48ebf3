"""Equal structures, whatever the order of their atoms and the periodic image each is given in."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from ase import Atoms
from ase.cell import Cell
from scipy.spatial import cKDTree

from mekrr.data.checking.distances import completed
from mekrr.data.reading.structure import Structure, formula
from mekrr.typing import Float, Int, ndarray

SAME_PLACE = 2e-4
"""Angstrom between atoms that are in one place: positions and cells written with four decimals are equal."""

ROUNDING = 1e-4
"""Angstrom, on the safe side of the mean: what writing positions moves atoms by. Sketches that differ by no more than
SAFE times what this does to them may be of equal structures."""

SAFE = 3.0
NEAR = 0.3
"""Angstrom: no other atom is so near, so that atoms that have moved by less are not in each other's places."""

AT_ONCE = 20_000
"""Atoms whose structure factors are computed together."""

_WAVES = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [1, -1, 2], [2, 1, -1], [-1, 2, 1], [3, 1, 2], [1, 3, -2], [2, -2, 3]]
)
WIDTH = 9 + 2 * len(_WAVES)
"""Numbers of a sketch."""

_ENERGY_PER_ATOM, _ENERGY, _FORCES, _STRESS = 1e-5, 1e-4, 5e-3, 1e-4
_AS_WRITTEN, _FORCES_NEAR = 1e-6, 0.1
"""Angstrom, and eV/Angstrom for structures that are farther apart: steps of a relaxation, with their noise."""


def duplicate_groups(structures: Sequence[Structure]) -> Int[ndarray, "structures"]:
    """For each structure the index of the first that equals it: its own where none does.

    Equal means the same species at the same positions in the same cell to SAME_PLACE, up to lattice translations of
    single atoms, the order of the atoms, and the place of the whole along directions that do not repeat.
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


def distinct(structures: Sequence[Structure]) -> list[Structure]:
    """Each structure once, in the order of the first of equal ones: the one of them that has the most labels."""
    best: dict[int, Structure] = {}
    for structure, first in zip(structures, duplicate_groups(structures).tolist(), strict=True):
        kept = best.setdefault(first, structure)
        if _count_labels(structure) > _count_labels(kept):
            best[first] = structure
    return list(best.values())


def _count_labels(structure: Structure) -> int:
    return sum(label is not None for label in (structure.energy, structure.forces, structure.stress))


def _first_equal(family: Sequence[Atoms]) -> np.ndarray:
    """For each of some structures of one composition and periodicity, the position of the first that equals it."""
    first, twins = _to_the_last_bit(family)
    # of what is repeated a thousand times, a tree would give half a million pairs
    sketches = Sketches.of([family[i] for i in first])
    near = first[cKDTree(sketches.numbers).query_pairs(float(sketches.reach.max()), output_type="ndarray")]
    earlier: dict[int, list[int]] = defaultdict(list)
    for i, j in near.tolist():
        earlier[max(i, j)].append(min(i, j))
    found = np.arange(len(family))
    # equal to a first one, not to one that equals a first: small steps would join a whole trajectory
    for j in sorted(earlier):
        firsts = (i for i in sorted(earlier[j]) if found[i] == i and _coincide(family[i], family[j]))
        found[j] = next(firsts, j)
    for i, j in twins:
        found[j] = found[i] if _coincide(family[i], family[j]) else j
    return found


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
    if np.abs(_repeating(one).array - _repeating(other).array).max() > SAME_PLACE:
        return False
    here, there = (_scaled(atoms, frame.array) for atoms in (one, other))
    if np.array_equal(one.numbers, other.numbers):
        moved = np.linalg.norm(_between(here, there, one.pbc) @ frame.array, axis=1).max()
        if SAME_PLACE < moved < NEAR:
            return False
    here, there = (_wrapped(scaled, one.pbc) for scaled in (here, there))
    # a box of no size is how scipy is told not to wrap
    _, partner = cKDTree(there, boxsize=np.where(one.pbc, 1.0, 0.0)).query(here)
    if len(set(partner.tolist())) < len(one) or not np.array_equal(one.numbers, other.numbers[partner]):
        return False
    return bool(np.linalg.norm(_between(here, there[partner], one.pbc) @ frame.array, axis=1).max() < SAME_PLACE)


def _between(here: np.ndarray, there: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Scaled vectors to the nearest image."""
    moves = there - here
    return moves - np.where(pbc, np.round(moves), 0.0)


def _scaled(atoms: Atoms, frame: np.ndarray) -> np.ndarray:
    """Scaled positions, those along directions that do not repeat from the middle."""
    scaled = np.linalg.solve(frame.T, atoms.positions.T).T
    return np.where(atoms.pbc, scaled, scaled - scaled.mean(axis=0))


def _frame(atoms: Atoms) -> Cell:
    """The lattice vectors along which the structure repeats, and unit vectors for the rest."""
    return _repeating(atoms).complete()


def _repeating(atoms: Atoms) -> Cell:
    return Cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))


def _wrapped(scaled: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Scaled positions in [0, 1) along periodic directions, rounding included."""
    return np.where(pbc, scaled % 1.0 % 1.0, scaled)


@dataclass(frozen=True, eq=False)
class Sketches:
    """What structures of one composition look like in a few numbers that know neither order nor periodic images.

    Attributes:
        numbers: the cell and a few structure factors.
        reach: how far those of equal structures may lie apart.
    """

    numbers: Float[ndarray, "structures numbers"]
    reach: Float[ndarray, "structures"]

    @staticmethod
    def of(family: Sequence[Atoms]) -> "Sketches":
        """Of structures with equally many atoms, at least one."""
        step = max(1, AT_ONCE // len(family[0]))
        parts = [_some_sketches(family[k : k + step]) for k in range(0, len(family), step)]
        return Sketches(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _some_sketches(family: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    repeating = np.stack([_repeating(atoms).array for atoms in family])
    frames = np.stack([completed(Cell(cell)) for cell in repeating])
    positions = np.stack([atoms.positions for atoms in family])
    scaled = np.linalg.solve(frames.swapaxes(1, 2), positions.swapaxes(1, 2)).swapaxes(1, 2)
    scaled = np.where([atoms.pbc[None] for atoms in family], scaled, scaled - scaled.mean(axis=1, keepdims=True))
    marks = 1.0 + (0.618033988749895 * np.stack([atoms.numbers for atoms in family])) % 1.0  # tells the species apart
    factors = np.einsum("ti,tiw->tw", marks, np.exp(2j * np.pi * scaled @ _WAVES.T))
    numbers = np.concatenate([repeating.reshape(len(family), 9), factors.real, factors.imag], axis=1)
    # an atom that moves by d turns the phase of wave w by 2 pi d . (frame^-1 w), and atoms are moved independently
    turns = 2 * np.pi * np.linalg.norm(np.linalg.solve(frames, _WAVES.T[None].astype(float)), axis=1)
    moved = np.sqrt((marks**2).sum(axis=1) * (turns**2).sum(axis=1)) * ROUNDING
    return numbers, SAFE * np.hypot(moved, ROUNDING)


def sketches_of(structures: Sequence[Structure]) -> Sketches:
    """Of structures of any sizes, in their order."""
    sizes = np.array([len(structure) for structure in structures])
    numbers, reach = np.zeros((len(structures), WIDTH)), np.zeros(len(structures))
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        found = Sketches.of([structures[int(i)].atoms for i in members])
        numbers[members], reach[members] = found.numbers, found.reach
    return Sketches(numbers, reach)


def have_equal_labels(one: Structure, other: Structure) -> bool:
    """Whether the labels that both of two equal structures have agree to the precision of a DFT calculation."""
    return _energies_agree(one, other) and _forces_agree(one, other) and _stresses_agree(one, other)


def _energies_agree(one: Structure, other: Structure) -> bool:
    if one.energy is None or other.energy is None:
        return True
    # what the forces do over the distance by which their places may differ
    moved = 0.0 if one.forces is None else SAME_PLACE * float(np.linalg.norm(one.forces))
    return abs(one.energy - other.energy) <= max(_ENERGY, _ENERGY_PER_ATOM * len(one)) + moved


def _forces_agree(one: Structure, other: Structure) -> bool:
    """Whether forces agree, atom by atom or, for another order of the atoms, by their sorted norms."""
    if one.forces is None or other.forces is None:
        return True
    if np.array_equal(one.species, other.species):
        apart = float(np.abs(one.atoms.positions - other.atoms.positions).max())
        level = _FORCES if apart < _AS_WRITTEN else _FORCES_NEAR
        if np.allclose(one.forces, other.forces, rtol=0, atol=level):
            return True
        if apart < 1e-3:
            return False
    norms = (np.sort(np.linalg.norm(forces, axis=1)) for forces in (one.forces, other.forces))
    return bool(np.allclose(next(norms), next(norms), rtol=0, atol=_FORCES))


def _stresses_agree(one: Structure, other: Structure) -> bool:
    if one.stress is None or other.stress is None:
        return True
    return bool(np.allclose(one.stress, other.stress, rtol=0, atol=_STRESS))
