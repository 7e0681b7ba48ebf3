"""PLUMED through ASE: a bias on top of the potential, whose deviation stays in sight."""

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.calculators.plumed import Plumed as AsePlumed

from mekrr.calculators import Calculator, Results
from mekrr.errors import EngineError

INSTALL = (
    "pip install plumed brings the Python part only; the library libplumedKernel.so comes with PLUMED itself (conda, a "
    "build of one's own), and PLUMED_KERNEL must name it"
)


class Plumed(AsePlumed):
    """ASE's calculator for PLUMED on a potential; the deviation of the potential's energy is passed on.

    Energy, forces and stress are those of potential and bias together. `results["energy_std"]` is the potential's,
    where its calculator computes it: `mekrr.dynamics.run` watches it then. PLUMED counts a step at each calculation:
    move the atoms once between two of them, as integrators do.

    Args:
        calculator: of the potential.
        lines: PLUMED's input.
        timestep: in ASE's unit of time.
        atoms: that will move.
        kT: eV, for methods that need a temperature.
        **more: see ASE's class.

    Raises:
        EngineError: when PLUMED is not there, or does not accept the input.
    """

    def __init__(
        self, calculator: Calculator, lines: Sequence[str], timestep: float, atoms: Atoms, kT: float = 1.0, **more: Any
    ) -> None:
        refused = _errors_of_plumed()
        try:
            super().__init__(calculator, list(lines), timestep, atoms, kT=kT, **more)
        except refused as error:
            raise EngineError(f"PLUMED does not accept its input: {' '.join(str(error).split())}") from error
        except RuntimeError as error:  # as its Python part raises it before the library is there
            raise EngineError(f"PLUMED's library is not found here ({error}): {INSTALL}") from error

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Fill `results`, at the next step of PLUMED's."""
        super().calculate(atoms, properties, system_changes)
        deviation = self.calc.results.get("energy_std")
        self.results = Results(self.results, {} if deviation is None else {"energy_std": deviation})


def _errors_of_plumed() -> type[Exception]:
    """The type of PLUMED's own errors.

    Raises:
        EngineError: when its Python part is not installed.
    """
    try:
        from plumed import PlumedError
    except ImportError as error:
        raise EngineError(f"PLUMED's Python part is not installed here ({error}): {INSTALL}") from error
    return PlumedError
