"""Runs that are quick: little structures, and hyperparameters that are not chosen."""

from pathlib import Path

import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS

CALCULATORS = Path(__file__).with_name("calculators.py")

FIXED = {
    "layers": ("interaction_1",),
    "length_scale": 12.0,
    "species_weight": 0.5,
    "prior": "backbone",
    "force_weight": 1e-3,
    "tangent_share": 0.0,
    "probes": 4,
}


@pytest.fixture
def emt():
    """The name of a calculator."""
    return f"{CALCULATORS}:emt"


@pytest.fixture
def cluster():
    """Four atoms of an alloy in vacuum, one of them fixed, away from their minimum."""
    pytest.importorskip("sevenn")
    atoms = Atoms("Cu3Au", positions=[[0, 0, 0], [2.5, 0, 0], [1.2, 2.2, 0], [1.2, 0.8, 2.1]])
    atoms.rattle(0.1, seed=1)
    atoms.set_constraint(FixAtoms([0]))
    return atoms


@pytest.fixture
def hop():
    """Both ends of a path of one gold atom through a fixed triangle of copper, relaxed with EMT."""
    pytest.importorskip("sevenn")
    ends = []
    for height in (1.6, -1.6):
        side = 3.4
        atoms = Atoms(
            "Cu3Au", positions=[[0, 0, 0], [side, 0, 0], [side / 2, side * 0.866, 0], [side / 2, side * 0.289, height]]
        )
        atoms.set_constraint(FixAtoms([0, 1, 2]))
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(0.005)
        atoms.calc = None
        ends.append(atoms)
    return ends
