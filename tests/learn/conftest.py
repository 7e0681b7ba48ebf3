"""Runs that are quick: little structures, and hyperparameters that are not chosen."""

from pathlib import Path

import pytest
from ase import Atoms
from ase.constraints import FixAtoms

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
