"""Where a run starts: a structure with its constraints, and velocities."""

from pathlib import Path
from typing import cast

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary

from mekrr.data import read_structures
from mekrr.data.reading.electrons import electrons
from mekrr.data.reading.xyz import iter_xyz
from mekrr.errors import DataError

KEPT_ARRAYS = {"numbers", "positions", "momenta", "masses", "tags", "initial_magmoms", "initial_charges"}
"""Other arrays of a file belong to its geometry (forces, ...) and would be false once the atoms move."""


def read_start(path: Path, index: int = -1) -> tuple[Atoms, int]:
    """One structure of a file with its constraints, masses, tags and momenta, and its index; labels are left behind.

    Args:
        path: any file that `read_structures` reads.
        index: which structure, negative from the end.

    Raises:
        DataError: when the file cannot be read, or an atom is of no element or has no mass.
    """
    (structure,) = read_structures(path, index=index, require_energy=False, strict=False)
    atoms = _as_stored(path, structure.index)
    if len(atoms) == 0:
        raise DataError(f"{structure.where}: it has no atoms; choose another with --index")
    for name in set(atoms.arrays) - KEPT_ARRAYS:
        del atoms.arrays[name]
    atoms.info = electrons(atoms)
    atoms.calc = None
    strangers = np.flatnonzero(~(atoms.get_masses() > 0) | (atoms.numbers < 1))
    if len(strangers):
        raise DataError(f"{structure.where}: atom {strangers[0]} is of no element or has no mass; correct the file")
    return atoms, structure.index


def _as_stored(path: Path, index: int) -> Atoms:
    """The structure with what `Structure` leaves out; `read_structures` has said what is wrong with the file."""
    if ".xyz" in path.suffixes or ".extxyz" in path.suffixes:
        return next(atoms for i, atoms in enumerate(iter_xyz(path)) if i == index)
    return cast(Atoms, ase.io.read(str(path.absolute()), index=index, do_not_split_by_at_sign=True))


def has_velocities(atoms: Atoms) -> bool:
    """Whether any atom moves."""
    return atoms.has("momenta") and bool(np.any(atoms.get_momenta()))


def draw_velocities(atoms: Atoms, temperature: float, seed: int) -> None:
    """Give the atoms velocities of the Maxwell-Boltzmann distribution.

    The total momentum is zero unless there are constraints, under which it is not conserved.

    Args:
        atoms: altered in place; what its constraints fix stays at rest.
        temperature: K.
        seed: equal seeds draw equal velocities.
    """
    noise = np.random.default_rng(seed).standard_normal((len(atoms), 3))
    atoms.set_momenta(noise * np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None])
    if not atoms.constraints:
        Stationary(atoms, preserve_temperature=False)


def degrees_of_freedom(atoms: Atoms) -> int:
    """Directions in which the atoms can move; three less where nothing is constrained, whose centre of mass counts not.

    Raises:
        DataError: when nothing can move.
    """
    free = int(atoms.get_number_of_degrees_of_freedom()) - (0 if atoms.constraints else 3)
    if free <= 0:
        raise DataError(
            f"nothing can move: {len(atoms)} atoms with {len(atoms.constraints)} constraints; free some atoms, or "
            "start from a structure with more than one"
        )
    return free


def temperature(atoms: Atoms) -> float:
    """Kinetic temperature in K, of the motion about the centre of mass where nothing is constrained."""
    momenta, masses = atoms.get_momenta(), atoms.get_masses()[:, None]
    if not atoms.constraints:
        momenta = momenta - masses * (momenta.sum(0) / masses.sum())
    return float((momenta**2 / masses).sum() / (degrees_of_freedom(atoms) * units.kB))
