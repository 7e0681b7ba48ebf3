"""A fitted function of environments: a sum of kernels to centres, with its gradient in closed form."""

from dataclasses import dataclass

import torch

from mekrr.features import Environments
from mekrr.kernels.pointwise import PointwiseKernel
from mekrr.typing import Float, Int, Tensor

PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Expansion:
    """E(x) = sum_i sum_m k(h_i, u_m) [(1 - w) a_m + w f_i b_m (z_i = z_m)].

    For the sum embedding f_i = 1; for the mean embedding f_i = n / n^(z_i), so that E is n times the mean kernel's
    value. Training structures with dual coefficients, or inducing environments: both are this.

    Attributes:
        centres: u, standardised, float64.
        species: of the centres.
        all_pairs: a.
        same_species: b.
        kernel: k.
        species_weight: w.
        embedding: "sum" or "mean".
    """

    centres: Float[Tensor, "inducing features"]
    species: Int[Tensor, "inducing"]
    all_pairs: Float[Tensor, "inducing"]
    same_species: Float[Tensor, "inducing"]
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
        coefficient = dual_coef[training.structure]
        a = b = coefficient
        if embedding == "mean":
            a, b = coefficient / training.n_atoms[training.structure], coefficient / same_species_count(training)
        return Expansion(training.features, training.species, a, b, kernel, species_weight, embedding)

    def __call__(
        self, x: Environments, gradient: bool = True
    ) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms features"] | None]:
        """Atomic energies in eV, and the derivative of their sum with respect to the features.

        Args:
            x: standardised environments.
            gradient: whether the derivative is wanted.
        """
        energies = torch.zeros(len(x.species), dtype=torch.float64)
        slopes = torch.zeros_like(x.features) if gradient else None
        factor = torch.ones(len(x.species), dtype=torch.float64)
        if self.embedding == "mean":
            factor = x.n_atoms[x.structure] / same_species_count(x)
        rows_at_once = max(1, PAIRS_AT_ONCE // max(1, len(self.species)))
        for z in torch.unique(x.species).tolist():
            for rows in torch.nonzero(x.species == z).flatten().split(rows_at_once):
                self._add(x.features[rows], factor[rows], int(z), rows, energies, slopes)
        return energies, slopes

    def _add(
        self,
        h: Float[Tensor, "rows features"],
        factor: Float[Tensor, "rows"],
        z: int,
        rows: Int[Tensor, "rows"],
        energies: Float[Tensor, "atoms"],
        slopes: Float[Tensor, "atoms features"] | None,
    ) -> None:
        """Energies and slopes of atoms of one species, written in place."""
        same = torch.where(self.species == z, self.same_species, 0.0) * self.species_weight
        weights = (1 - self.species_weight) * self.all_pairs + factor[:, None] * same
        values = self.kernel.values(h, self.centres)
        energies[rows] = (values * weights).sum(1)
        if slopes is not None:
            slopes[rows] = self.kernel.gradient(h, self.centres, values, weights)


def same_species_count(x: Environments) -> Float[Tensor, "atoms"]:
    """For each atom, how many atoms of its species its structure has."""
    pair = torch.stack([x.structure, x.species], dim=1)
    _, group, counts = torch.unique(pair, dim=0, return_inverse=True, return_counts=True)
    return counts[group].double()
