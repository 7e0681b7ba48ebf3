"""What stops a run that has gone wrong."""

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols

from mekrr.errors import MekrrError
from mekrr.typing import Float, ndarray

MAX_MOVE = 0.3
"""Angstrom in one step: a thermal hydrogen atom at 1000 K moves 0.025 in half a femtosecond, a bond breaks within 1."""


class UnstableError(MekrrError):
    """A run has left what can be integrated: the message names the step."""


def require_finite(atoms: Atoms, step: int) -> None:
    """Refuse energies and forces that are no numbers.

    Raises:
        UnstableError: naming the step and the first atom concerned.
    """
    refuse_nonfinite(atoms, atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False), f"step {step}")


def refuse_nonfinite(atoms: Atoms, energy: float, forces: Float[ndarray, "atoms 3"], where: str) -> None:
    """Refuse an energy and forces that are no numbers.

    Args:
        atoms: whose they are.
        energy: eV.
        forces: eV/Angstrom.
        where: "step 12", in the words of the run.

    Raises:
        UnstableError: naming the first atom concerned.
    """
    bad = np.flatnonzero(~np.isfinite(forces).all(axis=1))
    if len(bad):
        raise UnstableError(f"{where}: the force on {_atom(atoms, int(bad[0]))} is not finite; {_ADVICE}")
    if not np.isfinite(energy):
        raise UnstableError(f"{where}: the energy is {energy}; {_ADVICE}")


def refuse_leaps(atoms: Atoms, timestep: float, step: int) -> None:
    """Refuse a step that would carry an atom further than `MAX_MOVE`, before it is made.

    Args:
        atoms: with forces at hand.
        timestep: fs.
        step: the one to be made.

    Raises:
        UnstableError: naming the step, the atom and how far it would go.
    """
    dt = timestep * units.fs
    moves = dt * atoms.get_velocities() + 0.5 * dt**2 * atoms.get_forces() / atoms.get_masses()[:, None]
    lengths = np.linalg.norm(moves, axis=1)
    if not (lengths <= MAX_MOVE).all():
        k = int(lengths.argmax())
        raise UnstableError(
            f"step {step}: {_atom(atoms, k)} would move {lengths[k]:.2f} Angstrom in {timestep:g} fs, "
            f"more than {MAX_MOVE}; {_ADVICE}"
        )


_ADVICE = "take a shorter timestep, relax the start first, or add structures like the last frame to the training"


def _atom(atoms: Atoms, index: int) -> str:
    return f"atom {index} ({chemical_symbols[atoms.numbers[index]]})"
