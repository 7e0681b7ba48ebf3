"""Design rows of energies and derivatives in a basis of inducing environments.

With basis functions phi_m(x) = sum_i k_w(h_i, u_m), k_w = k [(1 - w) + w (z_i = z_m)], an energy is a row phi(x), and a
derivative along a direction v of all atoms (or a strain) is dphi_m = sum_i (dk_w(h_i, u_m)/dh_i) . (J v)_i.
"""

from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments
from mekrr.kernels.pointwise import PointwiseKernel
from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Inducing:
    """Inducing environments: the basis.

    Attributes:
        features: u, standardised, float64.
        species: atomic numbers.
    """

    features: Float[Tensor, "inducing features"]
    species: Int[Tensor, "inducing"]

    def gram(self, kernel: PointwiseKernel, species_weight: float) -> Float[Tensor, "inducing inducing"]:
        """K_mm."""
        return mixed(kernel.values(self.features, self.features), self.species, self.species, species_weight)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one structure, split so that every species weight is a mixture of the two.

    Attributes:
        all_pairs: energy first, then derivatives; whatever the species.
        same_species: from atoms of the inducing environment's species.
    """

    all_pairs: Float[Tensor, "rows inducing"]
    same_species: Float[Tensor, "rows inducing"]

    def mix(self, species_weight: float) -> Float[Tensor, "rows inducing"]:
        """(1 - w) all + w same."""
        return torch.lerp(self.all_pairs, self.same_species, species_weight)


def mixed(
    values: Float[Tensor, "rows columns"],
    species: Int[Tensor, "rows"],
    other: Int[Tensor, "columns"],
    species_weight: float,
) -> Float[Tensor, "rows columns"]:
    """k_w from k."""
    return torch.where(species[:, None] == other[None, :], values, (1.0 - species_weight) * values)


def design_rows(
    x: Environments,
    derivatives: Float[Tensor, "rows atoms features"] | None,
    inducing: Inducing,
    kernel: PointwiseKernel,
    rungs: int = 1,
) -> list[Rows]:
    """The energy row and the derivative rows of one structure, for each rung of a ladder of length scales.

    Args:
        x: standardised environments of one structure.
        derivatives: of the standardised features along each direction; None for the energy only.
        inducing: the basis.
        kernel: with the longest length scale.
        rungs: number of length scales, each 1/sqrt(2) of the one before.

    Raises:
        ValueError: for a ladder of a kernel that has none.
    """
    if rungs > 1 and not kernel.squares:
        raise ValueError(f"the {kernel.name} kernel has no ladder of length scales; ask for one at a time")
    h, u = x.features, inducing.features
    values = kernel.values(h, u)
    towards = None if derivatives is None else _towards(h, u, derivatives.double(), kernel.centred)
    same = (x.species[:, None] == inducing.species[None, :]).double()
    found = []
    for rung in range(rungs):
        found.append(_rows(values, same, towards, kernel.slope(h, u, values) * 2**rung))
        values = values.square() if rung + 1 < rungs else values
    return found


def _towards(
    h: Float[Tensor, "atoms features"],
    u: Float[Tensor, "inducing features"],
    derivatives: Float[Tensor, "rows atoms features"],
    centred: bool,
) -> Float[Tensor, "rows atoms inducing"]:
    """(J v)_i . (u_m - h_i), or (J v)_i . u_m."""
    products = (derivatives.reshape(-1, derivatives.shape[2]) @ u.T).reshape(*derivatives.shape[:2], len(u))
    return products.sub_((derivatives * h).sum(2, keepdim=True)) if centred else products


def _rows(
    values: Float[Tensor, "atoms inducing"],
    same: Float[Tensor, "atoms inducing"],
    towards: Float[Tensor, "rows atoms inducing"] | None,
    slope: Float[Tensor, "atoms inducing"],
) -> Rows:
    everything, own = [values.sum(0, keepdim=True)], [(values * same).sum(0, keepdim=True)]
    if towards is not None:
        everything.append((towards * slope).sum(1))
        own.append((towards * (slope * same)).sum(1))
    return Rows(torch.cat(everything), torch.cat(own))
