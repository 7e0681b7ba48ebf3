"""Structures of different sizes, weights and labels, as observations in two kinds of basis."""

from dataclasses import dataclass

import pytest
import torch

from mekrr.features import Environments
from mekrr.kernels import Basis, Component, GaussianKernel, LinearKernel, StructureKernel
from mekrr.prior import Compositions, PriorColumns, target_columns
from mekrr.solve import Observation, RowWeights
from support import random_environments

SIZES = [4, 6, 3, 5, 7, 2, 6, 4]
ROWS = ((5, 6), (3, 0), (0, 6), (0, 0))  # force directions and strains, in turn
KERNEL = StructureKernel((Component(GaussianKernel(2.5), 0.6, 0.4), Component(LinearKernel(1.5), 0.1, 0.2)))


@dataclass(frozen=True)
class Case:
    """Observations with what their priors are fitted to."""

    observations: list[Observation]
    compositions: Compositions
    weights: RowWeights

    def prior(self, name: str, chosen: list[int]) -> PriorColumns:
        """Fitted to the chosen structures, with its own leave-one-out refits."""
        energies = torch.stack([self.observations[t].columns[0, :2] for t in chosen])
        weights = torch.tensor([self.observations[t].weight for t in chosen], dtype=torch.float64)
        part = Compositions(self.compositions.counts[chosen], self.compositions.elements)
        return PriorColumns.fit(name, energies[:, 0], part, energies[:, 1], part.elements, weights)

    def priors(self, names):
        """Coefficients and refits of several priors on all structures."""
        found = [self.prior(name, list(range(len(self.observations)))) for name in names]
        return torch.stack([p.coefficients for p in found]), torch.stack([p.without for p in found])


def observe(basis: Basis, x: Environments) -> list[Observation]:
    """Rows of real kernels along random moves of the features, with random targets."""
    generator = torch.Generator().manual_seed(3)
    compositions = Compositions.of(x.species, x.n_atoms)
    energies, own = torch.randn(2, x.n_structures, dtype=torch.float64, generator=generator) * 3
    targets, found = target_columns(energies, own, compositions), []
    for t in range(x.n_structures):
        one = x[torch.tensor([t])]
        n, n_rows = len(one.species), sum(ROWS[t % 4])
        moves = torch.randn(n_rows, n, x.features.shape[1], dtype=torch.float64, generator=generator)
        columns = torch.zeros(1 + n_rows, targets.shape[1], dtype=torch.float64)
        columns[0] = targets[t]
        columns[1:, :2] = torch.randn(n_rows, 2, dtype=torch.float64, generator=generator)
        psi = basis.rows(one, moves if n_rows else None)
        found.append(Observation(psi, columns, n, ROWS[t % 4][0], 0.5 + 0.2 * t, float(n)))
    return found


@pytest.fixture(scope="session")
def x():
    return random_environments(SIZES, 4, species=(1, 29))


def case_of(x: Environments, centres: Environments, relative: float) -> Case:
    return Case(
        observe(Basis.of(centres, KERNEL, relative=relative), x),
        Compositions.of(x.species, x.n_atoms),
        RowWeights(force=0.03, stress=0.2),
    )


@pytest.fixture(scope="session")
def in_environments(x):
    """Energies, forces and strains in a basis of nine environments."""
    return case_of(x, x[torch.tensor([1, 2])].singletons(), 1e-10)


@pytest.fixture(scope="session")
def in_structures(x):
    """The same in the basis of the structures themselves."""
    return case_of(x, x, 1e-14)


@pytest.fixture(params=["environments", "structures"])
def case(request, in_environments, in_structures):
    return in_environments if request.param == "environments" else in_structures
