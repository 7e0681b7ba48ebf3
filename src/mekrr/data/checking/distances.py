"""Short interatomic distances."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import chemical_symbols, covalent_radii
from vesin import NeighborList

from mekrr.data.reading.structure import Structure
from mekrr.typing import Float, ndarray

REACH = 3.5
"""Angstrom: longer distances are not looked for."""

TOO_SHORT = 0.55
"""Fraction of the sum of the covalent radii below which a distance is suspicious (H2 in equilibrium is at 1.2)."""


LARGEST = 1e4
"""Angstrom: searches for neighbours take minutes at 1e5, and at 1e7 they end the process."""

MOST_NEIGHBOURS = 1e5
"""Of an atom: more than three hundred times those of the densest solids."""


def completed(cell: Cell) -> Float[ndarray, "3 3"]:
    """The cell with vectors where it has none, as ase completes it, which takes long where there are many."""
    array: np.ndarray = cell.array
    return array if array[0].any() and array[1].any() and array[2].any() else _completed(array.tobytes())


@lru_cache(maxsize=256)
def _completed(cell: bytes) -> np.ndarray:
    """Of a cell that many structures share."""
    array: np.ndarray = Cell(np.frombuffer(cell).reshape(3, 3)).complete().array
    array.setflags(write=False)
    return array


def unsearchable(atoms: Atoms, reach: float = REACH) -> str | None:
    """Why neighbours up to `reach` (Angstrom) must not be looked for, in words: too large an extent, or too dense.

    Args:
        atoms: with finite positions and cell, and lattice vectors where they are periodic.
        reach: of the search.
    """
    longest = float(np.linalg.norm(atoms.cell.array, axis=1).max())
    if longest > LARGEST:
        return f"a lattice vector is {longest:.3g} Angstrom long"
    cell = completed(atoms.cell)
    # a cell that repeats nowhere may be flat; the inverse takes a tenth of the time of the pseudo-inverse
    normals = (np.linalg.inv(cell) if abs(np.linalg.det(cell)) > 1e-6 else np.linalg.pinv(cell)).T
    normals /= np.sqrt(np.einsum("ij,ij->i", normals, normals)).clip(min=1e-300)[:, None]
    if not atoms.pbc.all():
        extent = float(np.ptp(atoms.positions @ normals[~atoms.pbc].T, axis=0).max(initial=0.0))
        if extent > LARGEST:
            return f"atoms are {extent:.3g} Angstrom apart along a direction that is not periodic"
    heights = np.abs(np.einsum("ij,ij->i", cell, normals))[atoms.pbc]
    # n atoms in a box of the heights, and a cube of twice the reach around each atom
    neighbours = len(atoms) * float(np.prod(2 * reach / np.maximum(heights, 1e-12)))
    if atoms.pbc.any() and neighbours > MOST_NEIGHBOURS:
        return f"the cell is so small that an atom has some {neighbours:.1g} neighbours within {reach:g} Angstrom"
    return None


def pairs_within_reach(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First atoms, second atoms and distances in Angstrom, each of shape (pairs,), below `REACH`; each pair once."""
    pbc = atoms.pbc.tolist()
    neighbours = NeighborList(cutoff=REACH, full_list=False)
    i, j, d = neighbours.compute(atoms.positions, completed(atoms.cell), pbc, "ijd")
    return i, j, d


@dataclass
class Contacts:
    """Distances between atoms of many structures, each looked at once.

    Attributes:
        short: position and complaint of each structure with a suspiciously short distance.
        shortest: Angstrom, by atomic numbers in ascending order; infinite where none is below `REACH`.
    """

    short: list[tuple[int, str]] = field(default_factory=list)
    shortest: Float[ndarray, "elements elements"] = field(
        default_factory=lambda: np.full((len(chemical_symbols),) * 2, np.inf)
    )

    @staticmethod
    def of(structures: Sequence[Structure], chosen: Iterable[int]) -> "Contacts":
        """Of the chosen ones."""
        found = Contacts()
        for index in chosen:
            atoms = structures[index].atoms
            i, j, d = pairs_within_reach(atoms)
            if complaint := _too_short(atoms, i, j, d):
                found.short.append((index, complaint))
            zi, zj = atoms.numbers[i], atoms.numbers[j]
            np.minimum.at(found.shortest, (np.minimum(zi, zj), np.maximum(zi, zj)), d)
        return found

    def by_pair(self) -> dict[str, float]:
        """The shortest distance in Angstrom between each two elements, e.g. {"Cu-O": 1.85}, where there is one."""
        found = np.argwhere(np.isfinite(self.shortest))
        names = chemical_symbols
        return {f"{names[a]}-{names[b]}": round(float(self.shortest[a, b]), 4) for a, b in found}


def _too_short(atoms: Atoms, i: np.ndarray, j: np.ndarray, d: np.ndarray) -> str | None:
    """The pair that is closest relative to its covalent radii, in words, if it is suspiciously close."""
    if len(d) == 0:
        return None
    usual = covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]
    worst = int((d / usual).argmin())
    if d[worst] > TOO_SHORT * usual[worst]:
        return None
    first, second = (f"atom {k} ({chemical_symbols[atoms.numbers[k]]})" for k in (i[worst], j[worst]))
    return f"{first} and {second} are {d[worst]:.2f} Angstrom apart"
