"""What stops a run that went wrong, and the figures that are kept of one that goes well."""

import warnings

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols

from mekrr.errors import MekrrError, MekrrWarning
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


class Trend:
    """Slope of a straight line fitted by least squares to points that come one by one; no point is kept."""

    def __init__(self) -> None:
        self.n = 0
        self._mean_x = self._mean_y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one more point (Welford's update of the moments)."""
        self.n += 1
        dx = x - self._mean_x
        self._mean_x += dx / self.n
        self._mean_y += (y - self._mean_y) / self.n
        self._xx += dx * (x - self._mean_x)
        self._xy += dx * (y - self._mean_y)

    @property
    def slope(self) -> float | None:
        """None before there are two points."""
        return self._xy / self._xx if self._xx > 0 else None


class Deviations:
    """What the deviations of a run came to, beside a threshold.

    Args:
        threshold: meV/atom; None counts none.

    Attributes:
        max_deviation: meV/atom; None without deviations.
        max_deviation_step: where it was met.
        past: states whose deviation exceeds the threshold.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.max_deviation: float | None = None
        self.max_deviation_step: int | None = None
        self.past = 0

    def take(self, step: int, deviation: float | None) -> bool:
        """Take one deviation of the energy, meV/atom; whether it is past the threshold."""
        if deviation is None:
            return False
        if self.max_deviation is None or deviation > self.max_deviation:
            self.max_deviation, self.max_deviation_step = deviation, step
        past = self.threshold is not None and deviation > self.threshold
        self.past += past
        return past

    def warn_once(self, where: str, deviation: float) -> None:
        """Name the first state past the threshold, and no other.

        Args:
            where: "step 12", in the words of the run.
            deviation: meV/atom, already taken.
        """
        if self.past == 1:
            warnings.warn(
                f"{where}: the deviation of the energy, {deviation:.3g} meV/atom, is past the threshold of "
                f"{self.threshold:.3g}: the structure is unlike the training data. Later ones are counted, not named",
                MekrrWarning,
                stacklevel=3,
            )


class Tally(Deviations):
    """Figures over the states of a run.

    Attributes:
        mean_temperature: K.
        trend: of the total energy, meV/atom, over time, ps.
    """

    def __init__(self, threshold: float | None) -> None:
        super().__init__(threshold)
        self.mean_temperature = 0.0
        self.trend = Trend()

    def add(self, step: int, time: float, temperature: float, total: float, deviation: float | None) -> bool:
        """Take one state; whether its deviation is past the threshold.

        Args:
            step: number.
            time: ps.
            temperature: K.
            total: energy, meV/atom.
            deviation: of the energy, meV/atom.
        """
        self.trend.add(time, total)
        self.mean_temperature += (temperature - self.mean_temperature) / self.trend.n
        return self.take(step, deviation)
