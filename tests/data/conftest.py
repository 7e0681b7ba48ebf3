import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator


def label(atoms: Atoms, seed: int = 0, **extra) -> Atoms:
    """Give atoms made-up results that add up: no net force."""
    generator = np.random.default_rng(seed)
    forces = generator.normal(size=(len(atoms), 3))
    forces -= forces.mean(0)
    energy = -3.0 * len(atoms) + 0.01 * generator.normal()
    atoms.info.pop("adsorbate_info", None)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, **extra)
    return atoms


@pytest.fixture
def slab() -> Atoms:
    return label(fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True))


@pytest.fixture
def frames() -> list[Atoms]:
    """Five frames of different sizes, compositions and periodicities."""
    systems = [fcc111("Cu", (2, 2, 2), vacuum=5.0), molecule("H2O"), molecule("CO2"), Atoms("Cu"), molecule("CH4")]
    for i, atoms in enumerate(systems):
        atoms.rattle(0.02, seed=i)
        label(atoms, i)
        atoms.info["config_type"] = "slab" if len(atoms) == 8 else "molecule"
    return systems
