"""A fitted function of environments: a sum of kernels to centres, with its gradient in closed form."""

from dataclasses import dataclass
from functools import cached_property

import torch

from mekrr.features import Environments
from mekrr.kernels.pointwise import PointwiseKernel
from mekrr.typing import Float, Int, Tensor

PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Expanded:
    """Values of an expansion.

    Attributes:
        atomic_energies: eV.
        slopes: derivative of their sum with respect to the standardised features; None when not asked for.
        cross: kernel between each structure and each group of centres (for the mean embedding, times n of the
            structure); None when not asked for.
    """

    atomic_energies: Float[Tensor, "atoms"]
    slopes: Float[Tensor, "atoms features"] | None
    cross: Float[Tensor, "structures groups"] | None


@dataclass(frozen=True, eq=False)
class Expansion:
    """E(x) = sum_g c_g sum_i sum_(m in g) k(h_i, u_m) [(1 - w) p_m + w f_i q_m (z_i = z_m)].

    Groups are training structures with dual coefficients, or single inducing environments. For the sum embedding
    p = q = f = 1. For the mean embedding p_m = 1/n, q_m = 1/n^(z_m) in the centre's structure and f_i = n/n^(z_i) in
    the atom's, so that E is n times the value of the mean kernel's function.

    Attributes:
        centres: u, standardised, float64.
        species: of the centres.
        group: of each centre.
        coefficients: c.
        pool_all: p.
        pool_same: q.
        kernel: k.
        species_weight: w.
        embedding: "sum" or "mean".
    """

    centres: Float[Tensor, "inducing features"]
    species: Int[Tensor, "inducing"]
    group: Int[Tensor, "inducing"]
    coefficients: Float[Tensor, "groups"]
    pool_all: Float[Tensor, "inducing"]
    pool_same: Float[Tensor, "inducing"]
    kernel: PointwiseKernel
    species_weight: float
    embedding: str

    @staticmethod
    def of_dual(
        training: Environments,
        dual_coef: Float[Tensor, "structures"],
        kernel: PointwiseKernel,
        species_weight: float,
        embedding: str,
    ) -> "Expansion":
        """sum_t dual_coef_t K(x, t), times n for the mean embedding, in terms of the training atoms."""
        p = q = torch.ones(len(training.species), dtype=torch.float64)
        if embedding == "mean":
            p, q = 1.0 / training.n_atoms[training.structure].double(), 1.0 / same_species_count(training)
        return Expansion(
            training.features,
            training.species,
            training.structure,
            dual_coef,
            p,
            q,
            kernel,
            species_weight,
            embedding,
        )

    def __call__(self, x: Environments, slopes: bool = True, cross: bool = False) -> Expanded:
        """Evaluate on standardised environments.

        Args:
            x: standardised environments, float64.
            slopes: whether the derivative is wanted.
            cross: whether the kernels to the groups are wanted.
        """
        found = Expanded(
            torch.zeros(len(x.species), dtype=torch.float64),
            torch.zeros_like(x.features) if slopes else None,
            torch.zeros(x.n_structures, len(self.coefficients), dtype=torch.float64) if cross else None,
        )
        factor = torch.ones(len(x.species), dtype=torch.float64)
        if self.embedding == "mean":
            factor = x.n_atoms[x.structure] / same_species_count(x)
        structure = x.structure
        rows_at_once = max(1, PAIRS_AT_ONCE // max(1, len(self.species)))
        for z in torch.unique(x.species).tolist():
            for rows in torch.nonzero(x.species == z).flatten().split(rows_at_once):
                self._add(x.features[rows], factor[rows], structure[rows], int(z), rows, found)
        return found

    def _add(
        self,
        h: Float[Tensor, "rows features"],
        factor: Float[Tensor, "rows"],
        structure: Int[Tensor, "rows"],
        z: int,
        rows: Int[Tensor, "rows"],
        found: Expanded,
    ) -> None:
        """Add the atoms of one species to what is found."""
        values = self.kernel.transform_(self.kernel.left(h, torch.float64) @ self._right)
        same = self._same(z)
        a, b = self._coefficient_all, self.coefficients[self.group] * same
        found.atomic_energies[rows] = values @ a + factor * (values @ b)
        if found.slopes is not None:
            weights = (a + b)[None, :] if self.embedding == "sum" else a + factor[:, None] * b
            found.slopes[rows] = self.kernel.gradient(h, self.centres, values, weights)
        if found.cross is not None:
            pool = self.pool_all * (1 - self.species_weight)
            pooled = values * (pool + same) if self.embedding == "sum" else values * (pool + factor[:, None] * same)
            by_group = values.new_zeros(len(self.coefficients), len(h)).index_add_(0, self.group, pooled.T)
            found.cross.index_add_(0, structure, by_group.T)

    def _same(self, z: int) -> Float[Tensor, "inducing"]:
        """W q_m for centres of species z, else 0."""
        return torch.where(self.species == z, self.pool_same, 0.0) * self.species_weight

    @cached_property
    def _coefficient_all(self) -> Float[Tensor, "inducing"]:
        return self.coefficients[self.group] * self.pool_all * (1 - self.species_weight)

    @cached_property
    def _right(self) -> Float[Tensor, "augmented inducing"]:
        return self.kernel.right(self.centres, torch.float64).T


def same_species_count(x: Environments) -> Float[Tensor, "atoms"]:
    """For each atom, how many atoms of its species its structure has."""
    groups = x.species_groups()
    return groups.counts[groups.of_atom].double()
