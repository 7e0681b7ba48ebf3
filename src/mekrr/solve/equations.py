"""Normal equations of energies, forces and stress in a whitened basis; they add up.

A structure contributes rows: its energy, derivatives along directions that stand for its forces, and six strains. What
is minimised is

    sum_t weight_t [ e_t^2 / n_t + force_weight |f_t|^2 + stress_weight |V s_t|^2 / n_t ] + ridge |c|^2

with e_t the energy error, f_t the force error (through its probes) and V s_t the error of the strain derivatives. Each
term grows with the number of atoms, so none depends on the size of the cell (the mean embedding, which models energies
per atom, has n_t^2 under e_t^2).
Rows are whitened before they are summed, so that the prior covariance of c is the identity: a Gram matrix of raw rows
whitened afterwards has lost the digits that a small ridge needs. Setting the gradient to zero gives

    (A + ridge) c = b,   A = sum_r w_r psi_r psi_r',   b = sum_r w_r psi_r y_r.

With the training structures as basis and energy rows alone this is kernel ridge regression: by the push-through
identity L (L' W L + ridge)^-1 L' W y = K (K + ridge W^-1)^-1 y.
Targets are kept as columns (DFT, backbone, atoms of each element): a prior is a combination of columns, so that the
equations serve every prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.typing import Float, Tensor


@dataclass(frozen=True)
class RowWeights:
    """What a squared error counts, beside the structure's own weight.

    Attributes:
        force: Angstrom^2; of a force component, where an energy error counts 1/n.
        stress: of a strain derivative over sqrt(n), likewise.
    """

    force: float
    stress: float


@dataclass(frozen=True, eq=False)
class Observation:
    """The rows of one structure.

    Attributes:
        psi: whitened design rows: energy, force directions, strains.
        columns: targets of each row: DFT, backbone, then atoms of each element (energy rows only); zeros when pinned.
        n_atoms: of the structure.
        n_forces: number of force directions.
        weight: of the structure.
        energy_noise: how the variance of its energy grows with its size, n or n^2.
        labelled: False for a pinned structure, without labels, whose rows are asked to be zero: it enters the
            equations, but neither the prior nor leave-one-out nor the calibration.
        prior_variance: of its rows, the diagonal of K; None where the basis expresses all of it.
    """

    psi: Float[Tensor, "rows groups"]
    columns: Float[Tensor, "rows columns"]
    n_atoms: int
    n_forces: int
    weight: float
    energy_noise: float
    labelled: bool = True
    prior_variance: Float[Tensor, "rows"] | None = None

    @property
    def unexplained(self) -> Float[Tensor, "rows"]:
        """Of the prior variance of each row, what the basis does not express."""
        if self.prior_variance is None:
            return self.psi.new_zeros(len(self.psi))
        return (self.prior_variance - self.psi.square().sum(1)).clamp_min(0.0)

    def row_weights(self, weights: RowWeights) -> Float[Tensor, "rows"]:
        """Weight of each squared error."""
        w = self.psi.new_full((len(self.psi),), weights.stress / self.n_atoms)
        w[0] = 1.0 / self.energy_noise
        w[1 : 1 + self.n_forces] = weights.force
        return w * self.weight


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over structures; those of two sets add up to those of the union.

    Attributes:
        gram: sum of weight psi psi', energies and strains.
        gram_forces: the same of force rows.
        moments: sum of weight psi columns', energies and strains.
        moments_forces: the same of force rows.
        n_structures: labelled ones summed over.
        n_force_rows: force directions summed over.
        n_force_components: labels they stand for.
        n_pinned: structures without labels summed over.
    """

    gram: Float[Tensor, "groups groups"]
    gram_forces: Float[Tensor, "groups groups"]
    moments: Float[Tensor, "groups columns"]
    moments_forces: Float[Tensor, "groups columns"]
    n_structures: int = 0
    n_force_rows: int = 0
    n_force_components: int = 0
    n_pinned: int = 0

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: "NormalEquations") -> "NormalEquations":
        """Of those structures that are not in the other sum."""
        return NormalEquations(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @staticmethod
    def of(observations: Sequence[Observation], weights: RowWeights) -> "NormalEquations":
        """Of a few structures; sums over shards keep the memory independent of the number of structures."""
        others, forces = [], []
        for one in observations:
            # sqrt(w) on both sides of a product is w
            root = one.row_weights(weights).sqrt()[:, None]
            psi, columns = one.psi * root, one.columns * root
            split = 1 + one.n_forces
            forces.append((psi[1:split], columns[1:split]))
            others.append((torch.cat([psi[:1], psi[split:]]), torch.cat([columns[:1], columns[split:]])))
        psi, columns = (torch.cat(parts) for parts in zip(*others, strict=True))
        psi_forces, columns_forces = (torch.cat(parts) for parts in zip(*forces, strict=True))
        return NormalEquations(
            psi.T @ psi,
            psi_forces.T @ psi_forces,
            psi.T @ columns,
            psi_forces.T @ columns_forces,
            sum(one.labelled for one in observations),
            len(psi_forces),
            sum(3 * one.n_atoms for one in observations if one.n_forces),
            sum(not one.labelled for one in observations),
        )

    @property
    def total(self) -> Float[Tensor, "groups groups"]:
        """A, the whole Gram matrix of the rows."""
        return self.gram + self.gram_forces

    @property
    def total_moments(self) -> Float[Tensor, "groups columns"]:
        """The moments of all rows: b, for each column."""
        return self.moments + self.moments_forces

    @property
    def probed_share(self) -> float:
        """Force directions over force components: 1 when all are there."""
        return min(1.0, self.n_force_rows / self.n_force_components) if self.n_force_components else 1.0

    def with_moments(self, correction: Float[Tensor, "groups"]) -> "NormalEquations":
        """The same with the correction added to the moments of the DFT column."""
        moments = self.moments.clone()
        moments[:, 0] += correction
        return replace(self, moments=moments)
