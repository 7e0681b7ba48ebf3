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
