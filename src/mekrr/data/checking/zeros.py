"""Labels of exactly zero where no symmetry asks for it: mostly zeros that were written for labels not there."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from vesin import NeighborList

from mekrr.data.reading.structure import Structure

REACH, LEVEL = 5.0, 1e-3
"""Angstrom, and the length of a sum of unit vectors that is not rounding."""


def zero_forces(structures: Sequence[Structure], indices: Sequence[int]) -> list[int]:
    """Those of the indices whose forces are all zero while atoms lie where forces need not vanish."""
    return [
        i
        for i in indices
        if (f := structures[i].forces) is not None and not f.any() and _is_pulled(structures[i].atoms)
    ]


def zero_stresses(structures: Sequence[Structure], indices: Sequence[int]) -> list[int]:
    """Those of the indices whose stress is zero in all components, which no symmetry asks for."""
    return [i for i in indices if (stress := structures[i].stress) is not None and not stress.any()]


def _is_pulled(atoms: Atoms) -> bool:
    """Whether an isotropic force between all pairs leaves a force on an atom: where symmetry forbids one, none does."""
    i, D, d = NeighborList(cutoff=REACH, full_list=True).compute(
        atoms.positions, atoms.cell.complete().array, atoms.pbc.tolist(), "iDd"
    )
    if len(i) == 0:
        return False
    # the weight falls to zero at the reach, where rounding decides which neighbours count
    pull = D * ((1 - d / REACH) ** 2 / np.maximum(d, 1e-6))[:, None]
    total = np.zeros((len(atoms), 3))
    np.add.at(total, i, pull)
    return bool(np.linalg.norm(total, axis=1).max() > LEVEL)
