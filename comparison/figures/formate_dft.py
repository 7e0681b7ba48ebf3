"""Formate on Cu(111) by DFT: the structures that reaction.py begins from, and the calculator of cu-formate-mini.

GPAW 26.7.0 with the settings of the embedded data but for the grid, which is finer: forces on the data's own grid (24 x
24 x 96) change by up to 0.1 eV/A as atoms move across it, which no potential can follow and no relaxation to 0.05 eV/A
can do without. How GPAW is built stands in tools/cu_formate_mini/README.md. `mekrr learn` takes the calculator as
`comparison/figures/formate_dft.py:make`.
"""

import sys
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

GRID = (32, 32, 128)  # planes 0.14 A apart

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "cu_formate_mini"))


class Formate(Calculator):
    """A GPAW calculation from atomic densities for every structure: labels depend on nothing else, as the data's."""

    implemented_properties = ("energy", "free_energy", "forces")
    calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        """Energies at zero smearing and of the forces, and these."""
        import dft

        super().calculate(atoms, properties, system_changes)
        copy = atoms.copy()
        copy.set_constraint()
        copy.calc = dft.calculator(copy, gpts=GRID)
        self.calls += 1
        self.results = {"forces": copy.get_forces(), "energy": copy.get_potential_energy()}
        self.results["free_energy"] = copy.get_potential_energy(force_consistent=True)


def make():
    """The calculator, with the sums of the data set, which are faster and the same."""
    import dft

    dft.use_fast_sums()
    return Formate()


def sketch(kind, seed=0):
    """A start that is no minimum: kind is one of sample.py's, the lowest layer of copper is fixed."""
    from sample import Plan, build

    return build(Plan("reaction", "D1", 2, kind, 300.0, 1, 1), np.random.default_rng(seed))
