import warnings

import ase.io
import pytest
from ase.build import bulk

from mekrr import KernelPotential

CHOSEN = {"layers": ("interaction_1",), "length_scale": 12.0}


@pytest.fixture(scope="session")
def energies_potential(alloys):
    """Energies of six alloy cells, by the exact solver, with nothing left to choose."""
    pytest.importorskip("sevenn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential(solver="exact", prior="backbone", **CHOSEN).fit(alloys[:6])


@pytest.fixture(scope="session")
def served_files(alloys, forces_potential, energies_potential, tmp_path_factory):
    """Models of forces, of energies and with the mean embedding; structures they can and cannot treat."""
    folder = tmp_path_factory.mktemp("served")
    files = {name: folder / f"{name}.safetensors" for name in ("forces", "energies", "mean")}
    forces_potential.save(files["forces"])
    energies_potential.save(files["energies"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = KernelPotential(solver="exact", prior="composition", embedding="mean", **CHOSEN)
        mean.fit(alloys[:6]).save(files["mean"])
    files |= {name: folder / f"{name}.extxyz" for name in ("start", "unknown")}
    ase.io.write(files["start"], alloys[30], columns=["symbols", "positions"], write_results=False)
    ase.io.write(files["unknown"], bulk("No", "fcc", a=4.0, cubic=True))
    return files
