"""Whether energies and forces agree, where consecutive frames make it checkable.

Between frames that differ by small displacements the energy changes by minus the mean force times the displacement
(trapezoidal rule). The ratio of the two is 1; a unit that is wrong for one of them shows as a known factor.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import units

from mekrr.data.checking.distances import completed
from mekrr.data.reading.structure import Structure
from mekrr.typing import Float, Int, ndarray

SMALL_STEP = 0.5
"""Angstrom: largest displacement of an atom for which the trapezoidal rule is trusted."""

_ENOUGH_STEPS = 5
_KCAL, _KJ = units.kcal / units.mol, units.kJ / units.mol
_CAUSES = (
    (-1.0, "the forces have the opposite sign (they may be gradients)"),
    (1 / units.Hartree, "the energies look like Ha"),
    (units.Hartree / units.Bohr, "the forces look like Ha/Bohr"),
    (units.Hartree, "the forces look like Ha/Angstrom"),
    (1 / units.Bohr, "the forces look like eV/Bohr, or energies and forces like Ha and Ha/Bohr"),
    (units.Bohr, "the positions look like Bohr"),
    (1 / units.Rydberg, "the energies look like Ry"),
    (units.Rydberg / units.Bohr, "the forces look like Ry/Bohr"),
    (1 / _KCAL, "the energies look like kcal/mol"),
    (_KCAL, "the forces look like kcal/mol/Angstrom"),
    (1 / _KJ, "the energies look like kJ/mol"),
    (_KJ, "the forces look like kJ/mol/Angstrom"),
    (1e3, "the energies look like meV"),
    (1e-3, "the forces look like meV/Angstrom"),
)


@dataclass(frozen=True)
class Steps:
    """Pairs of consecutive frames.

    Attributes:
        first: index of the earlier frame of each pair.
        change: energy of the later minus the earlier frame, eV.
        work: the same by the forces, eV.
        slack: how far the trapezoidal rule may be off, as the forces change along the step, eV.
    """

    first: Int[ndarray, "steps"]
    change: Float[ndarray, "steps"]
    work: Float[ndarray, "steps"]
    slack: Float[ndarray, "steps"]

    def ratio(self) -> float | None:
        """Median of change over work where that is well defined, else None."""
        ratios = self._telling_ratios()
        if len(ratios) < _ENOUGH_STEPS:
            return None
        middle = float(np.median(ratios))
        return middle if _share_near(ratios, middle) > 0.5 else None

    def jumps(self) -> Int[ndarray, "jumps"]:
        """First frames of the steps whose energy changes by far more than the forces allow, given that others agree."""
        ratios = self._telling_ratios()
        if len(ratios) < _ENOUGH_STEPS or _share_near(ratios, 1.0) < 0.3:
            return self.first[:0]
        rest = np.abs(self.change - self.work)
        return self.first[rest > 0.1 + 5 * np.quantile(rest, 0.25) + self.slack]

    def _telling_ratios(self) -> np.ndarray:
        """Change over work of the larger half of the steps, where noise matters least."""
        size = np.abs(self.work)
        telling = size > max(np.median(size) if len(size) else 0.0, 1e-6)
        return self.change[telling] / self.work[telling]


def _share_near(ratios: np.ndarray, centre: float) -> float:
    return float((np.abs(ratios - centre) < 0.3 * abs(centre)).mean())


def consecutive_steps(structures: Sequence[Structure], indices: Sequence[int]) -> Steps:
    """The pairs among `indices` that follow one another in a file and differ by small displacements only."""
    taken = [(i, _step(structures[i], structures[j])) for i, j in itertools.pairwise(indices)]
    first, *columns = np.array([(i, *step) for i, step in taken if step is not None]).reshape(-1, 4).T
    return Steps(first.astype(int), *columns)


def _step(one: Structure, other: Structure) -> tuple[float, float, float] | None:
    """Change, work and slack in eV, or None if this is no small step of one trajectory."""
    if one.energy is None or one.forces is None or other.energy is None or other.forces is None:
        return None
    if not _follows(one, other):
        return None
    displacement = _nearest_images(other.atoms.positions - one.atoms.positions, one)
    lengths = np.linalg.norm(displacement, axis=1)
    if not 0 < lengths.max() < SMALL_STEP:
        return None
    work = -0.5 * float(np.vdot(one.forces + other.forces, displacement))
    slack = 0.5 * float(lengths @ np.linalg.norm(other.forces - one.forces, axis=1))
    return other.energy - one.energy, work, slack


def _follows(one: Structure, other: Structure) -> bool:
    return (
        one.source == other.source
        and other.index == one.index + 1
        and np.array_equal(one.species, other.species)
        and bool(np.abs(one.atoms.cell.array - other.atoms.cell.array).max() <= 1e-6)
    )


def _nearest_images(displacement: np.ndarray, structure: Structure) -> np.ndarray:
    """Displacements reduced by lattice vectors; right for those much smaller than the cell."""
    cell = completed(structure.atoms.cell)
    turns = np.round(np.linalg.solve(cell.T, displacement.T).T) * structure.atoms.pbc
    return displacement - turns @ cell


def contradiction(steps: Steps, n_atoms: float) -> str | None:
    """What units energies and forces seem to have, in words, when they contradict each other.

    Args:
        steps: of `consecutive_steps`.
        n_atoms: typical number of atoms, to recognise energies per atom.
    """
    ratio = steps.ratio()
    if ratio is None or 0.7 < ratio < 1.4:
        return None
    causes = [*_CAUSES, (1 / n_atoms, "the energies look like energies per atom")]
    fitting = [cause for factor, cause in causes if 0.85 < ratio / factor < 1.18]
    cause = "; or ".join(fitting) or "no usual unit explains this factor"
    return f"between consecutive frames the energies change by {ratio:.3g} times what the forces say: {cause}"
