"""What the two ways into i-PI share: its cells and positions to structures, what was found to its units and extras.

Ceriotti, More, Manolopoulos, Comput. Phys. Commun. 185, 1019 (2014); version 3: J. Chem. Phys. 161, 062504 (2024).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from mekrr.dynamics.watch import Watch
from mekrr.engines.boxes import Boxes
from mekrr.engines.evaluator import Evaluator, Found
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

    Args:
        evaluator: of the potential.
        template: see Boxes.
        watch: over the deviations; its steps are evaluations.

    Attributes:
        boxes: structures out of what i-PI sends.
        n_evaluations: structures evaluated so far.
        watch: as given.

    Raises:
        DataError: for elements that the potential cannot treat.
    """

    def __init__(self, evaluator: Evaluator, template: Atoms, watch: Watch) -> None:
        evaluator.check(template)
        self._evaluator = evaluator
        self.boxes = Boxes(template, evaluator.cutoff, "i-PI")
        self.watch = watch
        self.n_evaluations = 0

    def __call__(
        self, cells: Sequence[Float[ndarray, "3 3"]], positions: Sequence[Float[ndarray, "atoms 3"]]
    ) -> list[Answer]:
        """Answers for the structures of one request, evaluated as a batch.

        Args:
            cells: Bohr, as i-PI has them: the vectors are columns.
            positions: Bohr.

        Raises:
            DataError: see Boxes.structure.
            ValueError: when atoms coincide.
            UnstableError: when an energy or force is not finite.
            OSError: when a structure to be labelled cannot be written.
        """
        structures = [self.boxes.structure(q * Bohr, h.T * Bohr) for h, q in zip(cells, positions, strict=True)]
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
