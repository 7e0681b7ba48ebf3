"""Boxes of programs that repeat along all axes, or along none."""

import numpy as np
from ase import Atoms

from mekrr.data.reading.electrons import electrons
from mekrr.errors import DataError
from mekrr.typing import Float, ndarray


class Boxes:
    """Structures out of a program's positions and box, of one template.

    The program's box is periodic along all axes, and atoms may be folded back into it. Along the axes on which the
    template is not periodic the box must therefore hold a vacuum of at least the cutoff: nothing reaches across it
    then, and the energy is that of the template's periodicity.

    Args:
        template: elements in the program's order, periodicity, charge and spin; its positions and cell do not matter.
        cutoff: of the potential, Angstrom.
        program: its name, for sentences.
    """

    def __init__(self, template: Atoms, cutoff: float, program: str) -> None:
        self._numbers = template.numbers.copy()
        self._info = electrons(template)
        self._empty_axes = np.flatnonzero(~template.pbc)
        self._cutoff = cutoff
        self._program = program

    def require_count(self, n_atoms: int) -> None:
        """Refuse another number of atoms than the template's.

        Raises:
            DataError: naming both.
        """
        if n_atoms != len(self._numbers):
            raise DataError(
                f"{self._program} sent {n_atoms} atoms, the template has {len(self._numbers)}: the template is to be "
                f"the structure that {self._program} starts from, its atoms in the same order"
            )

    def structure(self, positions: Float[ndarray, "atoms 3"], box: Float[ndarray, "3 3"] | None) -> Atoms:
        """A structure as it can be evaluated.

        Args:
            positions: Angstrom.
            box: vectors as rows, Angstrom; None for a program that runs without one.

        Raises:
            DataError: when its number of atoms is another, something is not finite, or there is no vacuum where there
                must be one.
        """
        self.require_count(len(positions))
        if not (np.isfinite(positions).all() and (box is None or np.isfinite(box).all())):
            raise DataError(
                f"{self._program} sent positions or a box that are not finite: the run has come apart; take a shorter "
                "timestep, or relax the start first"
            )
        if box is None:
            return Atoms(self._numbers, positions, info=self._info)
        atoms = Atoms(self._numbers, positions, cell=box, pbc=True, info=self._info)
        for axis in self._empty_axes:
            self._require_vacuum(atoms, int(axis))
        return atoms

    def _require_vacuum(self, atoms: Atoms, axis: int) -> None:
        height = 1 / np.linalg.norm(atoms.cell.reciprocal()[axis])
        folded = np.sort(atoms.get_scaled_positions(wrap=True)[:, axis])
        vacuum = float(height * np.diff(folded, append=folded[0] + 1).max())
        if vacuum < self._cutoff:
            raise DataError(
                f"the template is not periodic along {'abc'[axis]}, but the box of {self._program} leaves a vacuum of "
                f"{vacuum:.2f} Angstrom there and the potential's cutoff is {self._cutoff:g}: give {self._program} a "
                "longer box, or set pbc in the template"
            )
