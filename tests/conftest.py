import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.features import Environments


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: MEKRR_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("MEKRR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set MEKRR_DATA to a folder with cu_formate, mlearn_cu, ...")
    return folder


def random_environments(sizes: list[int], n_features: int, species: tuple[int, ...] = (1, 6, 29), seed: int = 0):
    """Environments of random features, every structure with its own composition."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    features = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    kinds = torch.tensor(species)[torch.randint(len(species), (n,), generator=generator)]
    return Environments(features, kinds, torch.tensor(sizes))


def labelled(atoms):
    """A copy with energy and forces of ASE's effective medium theory."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def alloy(seed: int):
    """A rattled, strained Cu-Au cell of four or eight atoms."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.8).repeat((1, 1, 1 + seed % 2))
    atoms.numbers[: rng.integers(1, len(atoms))] = 79
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return labelled(atoms)


@pytest.fixture(scope="session")
def alloys():
    """36 small alloy cells of two sizes and many compositions."""
    return [alloy(seed) for seed in range(36)]


@pytest.fixture(scope="session")
def molecules():
    """Rattled molecules without a cell."""
    frames = []
    for seed, name in enumerate(("CO", "H2O", "CH4", "NH3", "C2H4", "CO") * 3):
        atoms = molecule(name)
        atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


@pytest.fixture(scope="session")
def potential(alloys):
    """A potential fitted to 30 alloy cells with the default backbone, everything automatic."""
    pytest.importorskip("sevenn")
    from mekrr import KernelPotential

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0").fit(alloys[:30])
