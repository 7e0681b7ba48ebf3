"""What the two ways into i-PI share: its cells and positions to structures, what was found to its units and extras.

Ceriotti, More, Manolopoulos, Comput. Phys. Commun. 185, 1019 (2014); version 3: J. Chem. Phys. 161, 062504 (2024).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from mekrr.engines.evaluator import Evaluator, Found
from mekrr.engines.watch import Watch
from mekrr.errors import DataError
from mekrr.typing import Float, ndarray

NOT_COMPUTED = float("nan")
"""In place of a deviation that was not asked for: an extra that i-PI asks for and does not get ends its run."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What i-PI gets for one structure, in atomic units.

    Attributes:
        energy: Hartree.
        forces: Hartree/Bohr.
        virial: Hartree.
        extras: JSON; deviations in eV and Angstrom.
    """

    energy: float
    forces: Float[ndarray, "atoms 3"]
    virial: Float[ndarray, "3 3"]
    extras: str


class Provider:
    """Energies, forces and virials for i-PI, and the watch over their deviations.

    i-PI's cell is periodic along all axes, and it may fold atoms back into it. Along the axes on which the template is
    not periodic the cell must therefore hold a vacuum of at least the cutoff: nothing reaches across it then, and the
    energy is that of the template's periodicity.

    Args:
        evaluator: of the potential.
        template: elements in the order of i-PI's atoms, and periodicity; its positions and cell do not matter.
        watch: over the deviations; its steps are evaluations.

    Attributes:
        n_evaluations: structures evaluated so far.
        watch: as given.

    Raises:
        DataError: for elements that the potential cannot treat.
    """

    def __init__(self, evaluator: Evaluator, template: Atoms, watch: Watch) -> None:
        evaluator.check_species(template.numbers)
        self._evaluator = evaluator
        self._numbers = template.numbers.copy()
        self._empty_axes = np.flatnonzero(~template.pbc)
        self.watch = watch
        self.n_evaluations = 0

    def require_count(self, n_atoms: int) -> None:
        """Refuse another number of atoms than the template's.

        Raises:
            DataError: naming both.
        """
        if n_atoms != len(self._numbers):
            raise DataError(
                f"i-PI sent {n_atoms} atoms, TEMPLATE has {len(self._numbers)}: give the structure that i-PI starts "
                "from as TEMPLATE, its atoms in the same order"
            )

    def __call__(
        self, cells: Sequence[Float[ndarray, "3 3"]], positions: Sequence[Float[ndarray, "atoms 3"]]
    ) -> list[Answer]:
        """Answers for the structures of one request, evaluated as a batch.

        Args:
            cells: Bohr, as i-PI has them: the vectors are columns.
            positions: Bohr.

        Raises:
            DataError: when a structure has another number of atoms, or no vacuum where it must have one.
            ValueError: when a structure is unusable (atoms coincide, positions that are no numbers).
            UnstableError: when an energy or force is not finite.
            OSError: when a structure to be labelled cannot be written.
        """
        structures = [self._structure(h, q) for h, q in zip(cells, positions, strict=True)]
        # i-PI fills an incomplete batch up with copies of its last structure.
        distinct = [k for k, atoms in enumerate(structures) if k == 0 or not _equal(atoms, structures[k - 1])]
        found = self._evaluator([structures[k] for k in distinct])
        for k, one in zip(distinct, found, strict=True):
            self.n_evaluations += 1
            if self.watch.see(structures[k], one, self.n_evaluations):
                break
        place = np.searchsorted(distinct, range(len(structures)), side="right") - 1
        return [_answer(found[t]) for t in place]

    def lines(self) -> list[str]:
        """What was done and watched, one sentence a line."""
        return [f"{self.n_evaluations} structures evaluated", *self.watch.lines()]

    def _structure(self, h: Float[ndarray, "3 3"], positions: Float[ndarray, "atoms 3"]) -> Atoms:
        self.require_count(len(positions))
        if not (np.isfinite(h).all() and np.isfinite(positions).all()):
            raise DataError(
                f"i-PI sent a cell or positions that are not finite, after {self.n_evaluations} evaluations: the run "
                "has come apart; take a shorter timestep, or relax the start first"
            )
        atoms = Atoms(self._numbers, positions * Bohr, cell=h.T * Bohr, pbc=True)
        for axis in self._empty_axes:
            require_vacuum(atoms, int(axis), self._evaluator.cutoff)
        return atoms


def require_vacuum(atoms: Atoms, axis: int, cutoff: float) -> None:
    """Refuse a structure whose images along an axis are nearer than the cutoff.

    Args:
        atoms: periodic.
        axis: 0, 1 or 2.
        cutoff: Angstrom.

    Raises:
        DataError: naming axis, vacuum and cutoff.
    """
    height = 1 / np.linalg.norm(atoms.cell.reciprocal()[axis])
    folded = np.sort(atoms.get_scaled_positions(wrap=True)[:, axis])
    vacuum = float(height * np.diff(folded, append=folded[0] + 1).max())
    if vacuum < cutoff:
        raise DataError(
            f"TEMPLATE is not periodic along {'abc'[axis]}, but i-PI's cell leaves a vacuum of {vacuum:.2f} Angstrom "
            f"there and the potential's cutoff is {cutoff:g}: give i-PI a longer cell, or set pbc in TEMPLATE"
        )


def _equal(one: Atoms, other: Atoms) -> bool:
    return np.array_equal(one.positions, other.positions) and np.array_equal(one.cell.array, other.cell.array)


def _answer(found: Found) -> Answer:
    extras = {
        "energy_std": NOT_COMPUTED if found.energy_std is None else found.energy_std,
        "forces_std": NOT_COMPUTED if found.forces_std is None else found.forces_std.tolist(),
    }
    return Answer(
        found.energy / Hartree,
        found.forces * (Bohr / Hartree),
        found.virial / Hartree,
        json.dumps(extras),
    )
