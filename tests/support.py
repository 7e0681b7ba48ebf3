"""What several tests make their data from."""

import numpy as np
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.features import Environments, FeatureCache


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


def write_often(folder, key, value):
    """Write one cache entry again and again; here, because a spawned process must be able to import it."""
    cache = FeatureCache(folder)
    for _ in range(40):
        cache.write(key, {"features": torch.full((400, 30), float(value))})


def energy_and_forces(atoms):
    """By its calculator; here, because a spawned process must be able to import it."""
    return atoms.get_potential_energy(), atoms.get_forces()


def copper_molecule():
    """Three copper atoms without a cell."""
    atoms = molecule("H2O")
    atoms.numbers[:] = 29
    atoms.positions *= 2.5
    return atoms
