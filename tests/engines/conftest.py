import warnings

import pytest

from mekrr import KernelPotential


@pytest.fixture(scope="session")
def energies_potential(alloys):
    """Energies of six alloy cells, by the exact solver, with nothing left to choose."""
    pytest.importorskip("sevenn")
    chosen = {"layers": ("interaction_1",), "prior": "backbone", "length_scale": 12.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential(solver="exact", **chosen).fit(alloys[:6])
