"""A basis: functions of a structure, and the coordinates in which their prior covariance is the identity.

The functions are kernels to groups of centres. With single inducing environments as groups they span the sparse
solution; with the training structures themselves they span all of kernel ridge regression (representer theorem).
With L L' = K_gg + jitter, psi = L^-1 phi has psi . psi' = phi' K_gg^-1 phi, the kernel as far as the basis expresses
it: every solver then sees the same problem, whose prior covariance is the identity.
"""

from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments
from mekrr.kernels.function import KernelFunction
from mekrr.kernels.rows import design_rows
from mekrr.kernels.structure import StructureKernel
from mekrr.kernels.tiles import tile_dtype
from mekrr.linalg import LARGEST_JITTER, add_diagonal, cholesky_with_jitter
from mekrr.typing import Float, Tensor

# Rounding of float32 tiles makes eigenvalues negative by 1e-6 of the diagonal and more. What lies below is noise, and
# a search tries no ridge below it, so that a jitter of its size takes nothing away.
FLOAT32_JITTER = 1e-4


@dataclass(frozen=True, eq=False)
class Basis:
    """Functions phi_g and their whitening.

    Attributes:
        centres: standardised, float64; each of its structures is a group.
        kernel: between structures.
        L: Cholesky factor of K_gg with its jitter.
        jitter: on the diagonal of K_gg.
    """

    centres: Environments
    kernel: StructureKernel
    L: Float[Tensor, "groups groups"]
    jitter: float

    @staticmethod
    def of(
        centres: Environments,
        kernel: StructureKernel,
        K: Float[Tensor, "groups groups"] | None = None,
        jitter: float | None = None,
        relative: float = 1e-10,
    ) -> "Basis":
        """Factor the prior covariance.

        Args:
            centres: standardised; each of its structures is a group.
            kernel: between structures.
            K: its Gram matrix where it is known.
            jitter: absolute, that of an earlier factorisation; None for the smallest that succeeds.
            relative: the one tried first, relative to the mean diagonal. Inducing environments are dense enough to be
                dependent to rounding; a training structure carries noise far above its jitter, and a ridge as small as
                1e-12 of the diagonal may be the best one, so that there it may be smaller.

        Raises:
            NotPositiveDefiniteError: when the functions are numerically dependent.
        """
        K = covariance(centres, kernel) if K is None else K
        if jitter is not None:
            return Basis(centres, kernel, torch.linalg.cholesky(add_diagonal(K, jitter)), jitter)
        single = tile_dtype(centres) == torch.float32 and centres.n_structures < len(centres.species)
        L, jitter = cholesky_with_jitter(K, relative, FLOAT32_JITTER if single else LARGEST_JITTER)
        return Basis(centres, kernel, L, jitter)

    def __len__(self) -> int:
        return len(self.L)

    @property
    def is_of_atoms(self) -> bool:
        """Whether the groups are single environments, not whole structures."""
        return self.centres.n_structures == len(self.centres.species)

    def rows(
        self, x: Environments, derivatives: Float[Tensor, "directions atoms features"] | None
    ) -> Float[Tensor, "rows groups"]:
        """Whitened design rows of one structure: its energy, then its derivatives."""
        embedding = self.kernel.embedding
        splits = [
            (c, design_rows(x, derivatives, self.centres, c.pointwise, embedding=embedding)[0])
            for c in self.kernel.components
        ]
        return self.whiten(sum(c.mix(split) for c, split in splits))  # type: ignore[arg-type]

    def whiten(self, rows: Float[Tensor, "rows groups"]) -> Float[Tensor, "rows groups"]:
        """Psi from phi."""
        return whiten(rows, self.L)

    def coefficients(self, whitened: Float[Tensor, "groups"]) -> Float[Tensor, "groups"]:
        """Of the functions themselves: psi . c = phi . L^-T c."""
        return torch.linalg.solve_triangular(self.L.T, whitened[:, None], upper=True)[:, 0]

    def function(self, coefficients: Float[Tensor, "groups"]) -> KernelFunction:
        """The function with these coefficients of phi."""
        return KernelFunction(self.centres, coefficients, self.kernel)


def covariance(centres: Environments, kernel: StructureKernel) -> Float[Tensor, "groups groups"]:
    """K_gg: pairs of atoms directly where each group is one, tiles otherwise."""
    if centres.n_structures == len(centres.species):
        return kernel.between_atoms(centres, centres)
    return kernel.gram(centres)


def whiten(rows: Float[Tensor, "rows groups"], L: Float[Tensor, "groups groups"]) -> Float[Tensor, "rows groups"]:
    """Rows in coordinates in which L L' is the identity."""
    return torch.linalg.solve_triangular(L, rows.T, upper=False).T
