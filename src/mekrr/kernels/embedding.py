"""Kernel mean embeddings: how a kernel between atoms is pooled into one between structures.

The mean embedding (arXiv 2306.01589) models E/n,

    K(x, y) = a sum_ij k_ij / (n_x n_y) + b sum_s sum_(i, j in s) k_ij / (n_x^s n_y^s),

the sum embedding leaves the divisors out. Both are sums over atoms of k times pooling weights, p for all pairs and q
for those of one species: p = q = 1, or p = 1/n and q = 1/n^s. As functions of total energy, n_x K(x, .) of the mean
embedding takes f_i = n/n^(z_i) at the atoms of x, so that every function of a kernel is

    E(x) = sum_i sum_m c_m k(h_i, u_m) [a p_m + b f_i q_m (z_i = z_m)].
"""

from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments
from mekrr.typing import Float, Tensor

EMBEDDINGS = ("sum", "mean")


@dataclass(frozen=True, eq=False)
class Split:
    """Something linear in the kernel, from all pairs and from pairs of one species: any amplitudes mix the two.

    Attributes:
        all_pairs: whatever the species.
        same_species: from pairs of one species.
    """

    all_pairs: Tensor
    same_species: Tensor

    def __getitem__(self, rows: slice) -> "Split":
        return Split(self.all_pairs[rows], self.same_species[rows])


@dataclass(frozen=True, eq=False)
class Pooling:
    """Weights of the atoms of some structures.

    Attributes:
        p: of an atom among all pairs.
        q: of an atom among pairs of its species.
        f: of an atom whose energy is asked for.
        scale: of a structure: from the embedding's function to total energies, 1 or n.
    """

    p: Float[Tensor, "atoms"]
    q: Float[Tensor, "atoms"]
    f: Float[Tensor, "atoms"]
    scale: Float[Tensor, "structures"]

    @staticmethod
    def of(x: Environments, embedding: str) -> "Pooling":
        """Those of an embedding."""
        n = x.n_atoms.double()
        if embedding == "sum":
            ones = torch.ones(len(x.species), dtype=torch.float64, device=n.device)
            return Pooling(ones, ones, ones, torch.ones_like(n))
        groups = x.species_groups()
        own, all_atoms = groups.counts[groups.of_atom].double(), n[x.structure]
        return Pooling(1.0 / all_atoms, 1.0 / own, all_atoms / own, n)


def energy_noise(n_atoms: Float[Tensor, "*structures"], embedding: str) -> Float[Tensor, "*structures"]:
    """How the variance of an energy label grows with a structure: n, or n^2 where energies per atom are modelled."""
    return n_atoms.square() if embedding == "mean" else n_atoms
