"""Design rows of energies and derivatives: basis functions of one structure, and how they change along directions.

A basis function is the kernel to a group of centres, phi_g(x) = sum_i sum_(m in g) k(h_i, u_m) [a p_m + b f_i q_m
(z_i = z_m)] (see `embedding`); a group is an inducing environment by itself, or a training structure. An energy is a
row phi(x). Along a direction v of all atoms (or a strain), with J v the derivative of the features, the chain rule
gives dphi_g = sum_i (dk/dh_i) . (J v)_i.
"""

import torch

from mekrr.features.environments import Environments
from mekrr.kernels.embedding import Pooling, Split
from mekrr.kernels.pointwise import PointwiseKernel
from mekrr.typing import Float, Tensor


def design_rows(
    x: Environments,
    derivatives: Float[Tensor, "directions atoms features"] | None,
    centres: Environments,
    kernel: PointwiseKernel,
    rungs: int = 1,
    embedding: str = "sum",
) -> list[Split]:
    """The energy row and the derivative rows of one structure, for each rung of a ladder of length scales.

    Args:
        x: standardised environments of one structure.
        derivatives: of the standardised features along each direction; None for the energy only.
        centres: standardised; each of its structures is a group.
        kernel: with the longest length scale.
        rungs: number of length scales, each 1/sqrt(2) of the one before.
        embedding: "sum" or "mean".

    Raises:
        ValueError: for a ladder of a kernel that has none.
    """
    if rungs > 1 and not kernel.squares:
        raise ValueError(f"the {kernel.name} kernel has no ladder of length scales; ask for one at a time")
    h, u = x.features, centres.features
    values = kernel.values(h, u)
    towards = None if derivatives is None else _towards(h, u, derivatives.double(), kernel.centred)
    own, pooled = Pooling.of(x, embedding), Pooling.of(centres, embedding)
    same = (x.species[:, None] == centres.species[None, :]) * own.f[:, None]
    found = []
    for rung in range(rungs):
        # dk/dh of the Gaussian goes with 1/l^2, which doubles from rung to rung
        split = _rows(values, same, towards, kernel.slope(h, values) * 2**rung)
        found.append(_by_group(split, centres, pooled))
        values = values.square() if rung + 1 < rungs else values
    return found


def _towards(
    h: Float[Tensor, "atoms features"],
    u: Float[Tensor, "centres features"],
    derivatives: Float[Tensor, "rows atoms features"],
    centred: bool,
) -> Float[Tensor, "rows atoms centres"]:
    """(J v)_i . (u_m - h_i), or (J v)_i . u_m."""
    products = (derivatives.reshape(-1, derivatives.shape[2]) @ u.T).reshape(*derivatives.shape[:2], len(u))
    return products.sub_((derivatives * h).sum(2, keepdim=True)) if centred else products


def _rows(
    values: Float[Tensor, "atoms centres"],
    same: Float[Tensor, "atoms centres"],
    towards: Float[Tensor, "rows atoms centres"] | None,
    slope: Float[Tensor, "atoms centres"],
) -> Split:
    everything, own = [values.sum(0, keepdim=True)], [(values * same).sum(0, keepdim=True)]
    if towards is not None:
        everything.append((towards * slope).sum(1))
        own.append((towards * (slope * same)).sum(1))
    return Split(torch.cat(everything), torch.cat(own))


def _by_group(split: Split, centres: Environments, pooled: Pooling) -> Split:
    """Columns of single centres summed over their groups."""
    if centres.n_structures == len(centres.species):
        return split
    shape = (len(split.all_pairs), centres.n_structures)
    parts = []
    for values, weights in ((split.all_pairs, pooled.p), (split.same_species, pooled.q)):
        parts.append(values.new_zeros(shape).index_add_(1, centres.structure, values * weights))
    return Split(*parts)
