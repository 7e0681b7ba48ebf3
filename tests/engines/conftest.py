import warnings

import ase.io
import pytest
from ase.build import bulk

from mekrr import KernelPotential


@pytest.fixture(scope="session")
def served_files(alloys, forces_potential, exact_potential, tmp_path_factory):
    """Models of forces, of energies and with the mean embedding; structures they can and cannot treat."""
    folder = tmp_path_factory.mktemp("served")
    files = {name: folder / f"{name}.safetensors" for name in ("forces", "energies", "mean")}
    forces_potential.save(files["forces"])
    exact_potential.save(files["energies"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "prior": "composition"}
        KernelPotential(solver="exact", embedding="mean", **chosen).fit(alloys[:6]).save(files["mean"])
    files |= {name: folder / f"{name}.extxyz" for name in ("start", "unknown")}
    ase.io.write(files["start"], alloys[30], columns=["symbols", "positions"], write_results=False)
    ase.io.write(files["unknown"], bulk("No", "fcc", a=4.0, cubic=True))
    return files
