"""Model files that engines are given."""

import warnings

import ase.io
import pytest
from ase.build import bulk

CHOSEN = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-4, "forces": False}


def fitted(alloys, **options):
    from mekrr import KernelPotential

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", **CHOSEN, **options).fit(alloys[:14])


@pytest.fixture(scope="session")
def energies_potential(alloys):
    """Of energies alone."""
    pytest.importorskip("sevenn")
    return fitted(alloys, prior="backbone")


@pytest.fixture(scope="session")
def served_files(alloys, forces_potential, energies_potential, tmp_path_factory):
    """Models of forces, of energies and with the mean embedding; structures they can and cannot treat."""
    folder = tmp_path_factory.mktemp("served")
    files = {name: folder / f"{name}.safetensors" for name in ("forces", "energies", "mean")}
    forces_potential.save(files["forces"])
    energies_potential.save(files["energies"])
    fitted(alloys, prior="composition", embedding="mean").save(files["mean"])
    files |= {name: folder / f"{name}.extxyz" for name in ("start", "unknown")}
    ase.io.write(files["start"], alloys[30], columns=["symbols", "positions"], write_results=False)
    ase.io.write(files["unknown"], bulk("No", "fcc", a=4.0, cubic=True))
    return files
