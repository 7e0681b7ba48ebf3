"""Short interatomic distances."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from vesin import NeighborList

from mekrr.data.reading.structure import Structure

REACH = 3.5
"""Angstrom: longer distances are not looked for."""

TOO_SHORT = 0.55
"""Fraction of the sum of the covalent radii below which a distance is suspicious (H2 in equilibrium is at 1.2)."""


LARGEST = 1e4
"""Angstrom: searches for neighbours take minutes at 1e5, and at 1e7 they end the process."""

MOST_NEIGHBOURS = 1e5
"""Of an atom: more than three hundred times those of the densest solids."""


def unsearchable(atoms: Atoms, reach: float = REACH) -> str | None:
    """Why neighbours up to `reach` (Angstrom) must not be looked for, in words: too large an extent, or too dense.

    Args:
        atoms: with finite positions and cell, and lattice vectors where they are periodic.
        reach: of the search.
    """
    longest = float(np.linalg.norm(atoms.cell.array, axis=1).max())
    if longest > LARGEST:
        return f"a lattice vector is {longest:.3g} Angstrom long"
    cell = atoms.cell.complete().array
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
    i, j, d = neighbours.compute(atoms.positions, atoms.cell.complete().array, pbc, "ijd")
    return i, j, d


def too_short(atoms: Atoms) -> str | None:
    """The pair that is closest relative to its covalent radii, in words, if it is suspiciously close."""
    i, j, d = pairs_within_reach(atoms)
    if len(d) == 0:
        return None
    usual = covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]
    worst = int((d / usual).argmin())
    if d[worst] > TOO_SHORT * usual[worst]:
        return None
    first, second = (f"atom {k} ({chemical_symbols[atoms.numbers[k]]})" for k in (i[worst], j[worst]))
    return f"{first} and {second} are {d[worst]:.2f} Angstrom apart"


def shortest_by_pair(structures: Sequence[Structure]) -> dict[str, float]:
    """The shortest distance in Angstrom between each two elements, e.g. {"Cu-O": 1.85}, where it is below `REACH`."""
    shortest = np.full((len(chemical_symbols),) * 2, np.inf)
    for structure in structures:
        i, j, d = pairs_within_reach(structure.atoms)
        z = np.sort(structure.species[np.stack([i, j])], axis=0)
        np.minimum.at(shortest, (z[0], z[1]), d)
    found = np.argwhere(np.isfinite(shortest))
    return {f"{chemical_symbols[a]}-{chemical_symbols[b]}": round(float(shortest[a, b]), 4) for a, b in found}
