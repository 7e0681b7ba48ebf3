"""The energy of a network with changed weights, to first order about a point in the space of changes.

A change of the weights is space.change(w) with coordinates w, the same for all elements; gradients in w are T summed
over elements (features.tangent). At a point w_k the network is E_k + T_k (w - w_k), so that the ridge problem about a
centre c,

    min_w  sum_r weight_r (y_r - E_k,r - T_k,r (w - w_k))^2 + ridge |w - c|^2,

is kernel ridge regression with the tangent kernel T_k T_k' for w - c, whose prior mean is the linearised network at c.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.backbones import Backbone, WeightChange
from mekrr.data import Structure
from mekrr.features import Derivatives, TangentSpace, extract, probe
from mekrr.kernels import TangentBasis, energy_noise, joined
from mekrr.potential.training import TrainingSet
from mekrr.solve import Factor, NormalEquations, Observation, Residuals, RowWeights, leave_one_structure_out
from mekrr.tune import Judged, observation, score
from mekrr.typing import Float, Tensor

ROWS = 2500  # that span the basis, at most


def common(space: TangentSpace, w: Float[Tensor, "width"]) -> WeightChange:
    """The change of weights with these coordinates, for every element."""
    return space.change(w.expand(len(space.species) + 1, -1))


@dataclass(frozen=True, eq=False)
class Linearised:
    """A training set's rows at a point.

    Attributes:
        w: the point.
        data: labels, with the network's own energies at the point.
        derivatives: rows of each structure, with the network's own at the point.
        basis: of the tangent kernel there.
        psi: whitened rows of each structure.
    """

    w: Float[Tensor, "width"]
    data: TrainingSet
    derivatives: tuple[Derivatives, ...]
    basis: TangentBasis
    psi: tuple[Float[Tensor, "_rows functions"], ...]

    @staticmethod
    def at(
        w: Float[Tensor, "width"],
        backbone: Backbone,
        structures: Sequence[Structure],
        space: TangentSpace,
        probes: int | str,
        seed: int,
    ) -> "Linearised":
        """Rows of all structures.

        Args:
            w: the point.
            backbone: with the weights of the point.
            structures: labelled with energies.
            space: of the coordinates.
            probes: random force directions a structure.
            seed: of the directions: other ones at each point see other components.
        """
        layers = backbone.layers[:1]  # features are not looked at
        extraction = extract([s.atoms for s in structures], backbone, layers)
        store = probe(structures, backbone, layers, probes, seed, tangent=space)
        derivatives = tuple(found for t in range(len(structures)) if (found := store(t)) is not None)
        data = TrainingSet.of(
            extraction,
            store,
            torch.tensor([s.energy for s in structures], dtype=torch.float64),
            torch.tensor([s.weight for s in structures], dtype=torch.float64),
        )
        T = [one.tangent for one in derivatives if one.tangent is not None]
        basis = TangentBasis.of(joined(T, ROWS, seed), species_weight=0.0)
        psi = basis.rows(torch.cat(T)).split([len(one) for one in T])
        return Linearised(w, data, derivatives, basis, tuple(psi))

    def about(self, centre: Float[Tensor, "width"]) -> tuple[TrainingSet, list[Observation]]:
        """Labels and rows whose own energies are those of the linearised network at a centre."""
        energies, seen = self.data.extraction.energies, []
        assert energies is not None
        energies = energies.clone()
        for t, one in enumerate(self.derivatives):
            assert one.tangent is not None
            moved = one.tangent.double().sum(1) @ (centre - self.w)
            energies[t] += moved[0]
            seen.append(replace(one, own=one.own.double() + moved[1:]))
        data = self.data
        data = TrainingSet.of(replace(data.extraction, energies=energies), None, data.energies, data.weights)
        noise, n = energy_noise(data.n_atoms, "sum"), data.n_atoms
        rows = zip(self.psi, data.columns, seen, n.tolist(), data.weights.tolist(), noise.tolist(), strict=True)
        return data, [observation(psi, column, d, int(size), w, e) for psi, column, d, size, w, e in rows]

    def factor(self, weights: RowWeights) -> Factor:
        """Of the rows' Gram matrix, for every ridge and centre."""
        return Factor.of(NormalEquations.of(self.about(self.w)[1], weights))

    def solve(
        self, factor: Factor, weights: RowWeights, ridge: float, damping: float, prior: str
    ) -> Float[Tensor, "width"]:
        """The minimum with the ridge pulling to zero, and `damping` times as strongly to the point itself.

        ridge |w|^2 + damping ridge |w - w_k|^2 is, up to a constant, (1 + damping) ridge about a centre between.
        """
        centre = self.w * (damping / (1.0 + damping))
        data, observations = self.about(centre)
        moments = sum(
            (one.psi * one.row_weights(weights)[:, None]).T @ (one.columns @ data.prior_columns(prior).coefficients)
            for one in observations
        )
        assert isinstance(moments, Tensor)
        return centre + self.basis.weights(factor.solve(moments, ridge * (1.0 + damping)))[0]

    def left_out(
        self, factor: Factor, weights: RowWeights, ridges: Float[Tensor, "ridges"], prior: str
    ) -> tuple[Residuals, Float[Tensor, "ridges"]]:
        """Leave-one-structure-out with the ridge pulling to zero, and its score along the ridges."""
        data, observations = self.about(torch.zeros_like(self.w))
        columns = data.prior_columns(prior)
        factor = Factor(NormalEquations.of(observations, weights), factor.eigenvalues, factor.V)
        left = columns.coefficients[None], columns.without[None]
        residuals = leave_one_structure_out(factor, observations, weights, *left, ridges)
        judged = Judged.of(residuals, factor, columns.coefficients[None], ridges, data.noise("sum"))
        return residuals, score("loo-mae", judged)[0]
