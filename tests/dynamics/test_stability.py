import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from mekrr.dynamics import UnstableError
from mekrr.dynamics.stability import refuse_leaps, require_finite


class Broken(Calculator):
    """Gives what it is told to."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": self.parameters["energy"], "forces": np.full((len(atoms), 3), 0.0)}
        self.results["forces"][2] = self.parameters["force"]


def broken(energy=0.0, force=0.0):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Broken(energy=energy, force=force)
    return atoms


def test_what_is_not_finite_is_named():
    require_finite(broken(), 7)
    with pytest.raises(UnstableError, match=r"step 7: the force on atom 2 \(Cu\) is not finite"):
        require_finite(broken(force=np.nan), 7)
    with pytest.raises(UnstableError, match="step 7: the energy is inf"):
        require_finite(broken(energy=np.inf), 7)


def test_leaps_are_refused_before_they_are_made():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.set_velocities(np.array([[0, 0, 0], [0, 0, 0.25], [0, 0, 0], [0, 0, 0]]) / units.fs)
    refuse_leaps(atoms, 1.0, 4)
    with pytest.raises(UnstableError, match=r"step 4: atom 1 \(Cu\) would move 0\.50 Angstrom in 2 fs"):
        refuse_leaps(atoms, 2.0, 4)
    with pytest.raises(UnstableError, match="would move"):
        refuse_leaps(broken(force=1e4), 1.0, 4)
    with pytest.raises(UnstableError, match="would move nan"):
        refuse_leaps(broken(force=np.nan), 1.0, 4)
