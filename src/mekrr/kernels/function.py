"""A fitted function of environments: a sum of kernels to centres, with its gradient in closed form."""

from dataclasses import dataclass
from functools import cached_property

import torch

from mekrr.features.environments import Environments
from mekrr.kernels.embedding import Pooling
from mekrr.kernels.structure import Component, StructureKernel
from mekrr.typing import Float, Int, Tensor

PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Values:
    """Values of a kernel function.

    Attributes:
        atomic_energies: eV.
        slopes: derivative of their sum with respect to the standardised features; None when not asked for.
        rows: the basis functions of each structure; None when not asked for.
    """

    atomic_energies: Float[Tensor, "atoms"]
    slopes: Float[Tensor, "atoms features"] | None
    rows: Float[Tensor, "structures groups"] | None


@dataclass(frozen=True, eq=False)
class KernelFunction:
    """E(x) = sum_g c_g phi_g(x), phi_g(x) = sum_i sum_(m in g) k(h_i, u_m) [a p_m + b f_i q_m (z_i = z_m)].

    See `embedding` for p, q and f; components add up.

    Attributes:
        centres: u, standardised, float64; each of its structures is a group.
        coefficients: c.
        kernel: between structures.
    """

    centres: Environments
    coefficients: Float[Tensor, "groups"]
    kernel: StructureKernel

    def __call__(self, x: Environments, slopes: bool = True, rows: bool = False) -> Values:
        """Evaluate on standardised environments.

        Args:
            x: standardised environments, float64.
            slopes: whether the derivative is wanted.
            rows: whether the basis functions are wanted.
        """
        n = len(x.species)
        found = Values(
            x.features.new_zeros(n, dtype=torch.float64),
            torch.zeros_like(x.features) if slopes else None,
            x.features.new_zeros(x.n_structures, len(self.coefficients)) if rows else None,
        )
        f, structure = Pooling.of(x, self.kernel.embedding).f, x.structure
        at_once = max(1, PAIRS_AT_ONCE // max(1, len(self.centres.species)))
        for component, right in zip(self.kernel.components, self._right, strict=True):
            for z in torch.unique(x.species).tolist():
                for part in torch.nonzero(x.species == z).flatten().split(at_once):
                    self._add(component, right, x.features[part], f[part], structure[part], int(z), part, found)
        return found

    def _add(
        self,
        component: Component,
        right: Float[Tensor, "augmented centres"],
        h: Float[Tensor, "rows features"],
        f: Float[Tensor, "rows"],
        structure: Int[Tensor, "rows"],
        z: int,
        part: Int[Tensor, "rows"],
        found: Values,
    ) -> None:
        """Add a component's share of the atoms of one species to what is found."""
        kernel, centres = component.pointwise, self.centres
        values = kernel.transform_(kernel.left(h, torch.float64) @ right)
        everything = component.all_pairs * self._pooling.p
        same = component.same_species * torch.where(centres.species == z, self._pooling.q, 0.0)
        # one vector of weights for all atoms where f = 1; both terms apart otherwise
        c = self.coefficients[centres.structure]
        a, b = c * everything, c * same
        found.atomic_energies[part] += values @ a + f * (values @ b)
        summed = self.kernel.embedding == "sum"
        if found.slopes is not None:
            weights = (a + b)[None, :] if summed else a + f[:, None] * b
            found.slopes[part] += kernel.gradient(h, centres.features, values, weights)
        if found.rows is not None:
            pooled = values * (everything + same) if summed else values * (everything + f[:, None] * same)
            if centres.n_structures < len(centres.species):
                shape = (len(self.coefficients), len(h))
                pooled = values.new_zeros(shape).index_add_(0, centres.structure, pooled.T).T
            found.rows.index_add_(0, structure, pooled)

    @cached_property
    def _pooling(self) -> Pooling:
        return Pooling.of(self.centres, self.kernel.embedding)

    @cached_property
    def _right(self) -> list[Float[Tensor, "augmented centres"]]:
        return [c.pointwise.right(self.centres.features, torch.float64).T for c in self.kernel.components]
