"""Rows of the training structures in the chosen basis, and the sums over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from mekrr.features import Derivatives, DerivativeStore, Environments, Extraction, Scaler, batches
from mekrr.kernels import (
    Basis,
    JointBasis,
    Pooling,
    StructureKernel,
    TangentBasis,
    drawn,
    energy_noise,
    make_kernel,
)
from mekrr.potential.options import FitOptions
from mekrr.potential.training import TrainingSet, group_count
from mekrr.shards import HERE
from mekrr.solve import NormalEquations, Observation, RowWeights
from mekrr.tune import Plan, Trial, observation, ridge_unit
from mekrr.typing import Float, Int, Tensor

TANGENT_ROWS = 2500  # that span the tangent kernel's basis, at most: leave-one-out's matrices grow with their square
KEPT_BYTES = 1_000_000_000  # of rows kept from the equations to leave-one-out
SHARD_ATOMS = 2000  # whose rows are in memory at once


@dataclass(frozen=True, eq=False)
class Rows:
    """A shard's rows in a basis: indices of structures in, their observations out.

    Attributes:
        data: labels, features and derivatives.
        extraction: of the chosen layers.
        scaler: fitted on all training atoms.
        basis: chosen.
        energies: raw energy rows where they are known already: the structures as their own basis.
        kept: rows by the first index of their shard, as long as there is room.
        centres: training atoms that are the basis' environments; None for the structures as their own basis.
        held: indices of structures to hold out.
        n_held_functions: of the basis, at its end, that are rows of these.
    """

    data: TrainingSet
    extraction: Extraction
    scaler: Scaler
    basis: JointBasis
    energies: Float[Tensor, "structures groups"] | None = None
    kept: dict[int, list[Observation]] = field(default_factory=dict)
    centres: Int[Tensor, "groups"] | None = None
    held: tuple[int, ...] = ()
    n_held_functions: int = 0

    def __call__(self, shard: Sequence[int]) -> list[Observation]:
        """Whitened rows and targets of each structure."""
        found = self.kept.get(shard[0])
        if found is None or len(found) != len(shard):
            found = self._made(shard)
            rows = sum(len(one.psi) for one in found) + sum(len(o.psi) for part in self.kept.values() for o in part)
            if 8 * rows * len(self.basis) < KEPT_BYTES:
                self.kept[shard[0]] = found
        return found

    def _made(self, shard: Sequence[int]) -> list[Observation]:
        if self.energies is not None:
            known = self.basis.features.whiten(self.energies[list(shard)])
            return [self._observation(t, psi[None], None) for t, psi in zip(shard, known, strict=True)]
        derivatives = [self.data.derivatives(t, self.extraction.layers, self.scaler) for t in shard]
        psi, own = [], []
        for t, d in zip(shard, derivatives, strict=True):
            x = self.scaler(self.extraction.environments[torch.tensor([t])])
            psi.append(self.basis.features.rows(x, None if d is None else d.features))
            own.append(self.basis.features_share * _prior_variances(self.basis.kernel, x, d))
        if self.basis.tangent is not None:  # all rows of the shard at once: the products are large
            parts = [d.tangent for d in derivatives if d is not None and d.tangent is not None]
            psi = list(self.basis.join(torch.cat(psi), torch.cat(parts)).split([len(one) for one in psi]))
            tangent = self.basis.share * self.basis.tangent.own(torch.cat(parts))
            own = [a + b for a, b in zip(own, tangent.split([len(one) for one in parts]), strict=True)]
        return [
            replace(self._observation(t, p, d), prior_variance=k)
            for t, p, d, k in zip(shard, psi, derivatives, own, strict=True)
        ]

    def _observation(self, t: int, psi: Float[Tensor, "rows groups"], derivatives: Derivatives | None) -> Observation:
        data, n = self.data, self.data.n_atoms[t]
        noise = float(energy_noise(n[None], self.basis.kernel.embedding))
        return observation(psi, data.columns[t], derivatives, int(n), float(data.weights[t]), noise)

    def of(self, chosen: Sequence[int]) -> list[Observation]:
        """Of any structures, not kept."""
        return [one for t in chosen for one in self._made([t])]

    def shards(self) -> list[list[int]]:
        """Consecutive structures, some atoms at a time; all at once where only energies are known."""
        sizes = self.extraction.environments.n_atoms.tolist()
        return list(batches(sizes, SHARD_ATOMS if self.energies is None else sum(sizes)))


def _prior_variances(kernel: StructureKernel, x: Environments, d: Derivatives | None) -> Float[Tensor, "rows"]:
    """Of one structure's energy and of its derivatives, at unit amplitude."""
    energy = kernel.diagonal(x)
    if d is None or not len(d.features):
        return energy
    return torch.cat([energy, kernel.slope_diagonal(x, d.features)])


def make_rows(
    data: TrainingSet, plan: Plan, best: Trial, options: FitOptions, held: Sequence[int] = ()
) -> tuple[Rows, Environments, float]:
    """Basis and rows at the chosen hyperparameters, the raw centres, and the smallest ridge above rounding.

    Rows of structures to hold out come last in the tangent kernel's basis: whitened by a Cholesky factor, the functions
    before them are those of a basis without them.
    """
    extraction = data.extraction.select(best.layers)
    raw = extraction.environments
    scaler = Scaler.fit(raw.features, extraction.widths)
    pointwise = make_kernel(options.kernel, best.length_scale)
    kernel = StructureKernel.weighted(pointwise, best.species_weight, options.embedding)
    # float64 features of a million atoms take gigabytes: only candidates are standardised
    chosen = plan.centres(raw, group_count(options, raw, best.tangent_share), options.seed, scaler)
    if chosen is not None:
        raw = Environments(raw.features[chosen], raw.species[chosen], torch.ones_like(chosen))
        features = Basis.of(scaler(raw), kernel, relative=plan.jitter)
        basis, n_held = _joint(data, features, best, options.seed, held)
        found = Rows(data, extraction, scaler, basis, centres=chosen, held=tuple(held), n_held_functions=n_held)
        return found, raw, 0.0
    x = scaler(raw)
    K = kernel.gram(x)
    own = Basis.of(x, kernel, K, relative=plan.jitter)
    floor = plan.floor(x, pointwise, options.embedding) * ridge_unit(K, data.n_atoms, options.embedding)
    energies = K * Pooling.of(x, options.embedding).scale[:, None]
    return Rows(data, extraction, scaler, JointBasis(own), energies), raw, floor


def _joint(data: TrainingSet, features: Basis, best: Trial, seed: int, held: Sequence[int]) -> tuple[JointBasis, int]:
    """With the tangent kernel where it has a share, and how many of its rows are of structures to hold out."""
    if best.tangent_share == 0.0 or data.store is None:
        return JointBasis(features), 0
    # of many structures few rows are drawn: only these are ever in memory together
    drawn_rows = drawn([data.store.tangent_rows.get(t, 0) for t in range(len(data))], TANGENT_ROWS, seed)
    order = [t for t in range(len(data)) if t not in set(held)] + list(held)
    functions = torch.cat([_tangent_rows(data.store, t, drawn_rows[t]) for t in order if len(drawn_rows[t])])
    tangent = TangentBasis.of(functions, best.species_weight, best.tangent_amplitude)
    return JointBasis(features, tangent, best.tangent_share), sum(len(drawn_rows[t]) for t in held)


def _tangent_rows(
    store: DerivativeStore, t: int, some: Int[Tensor, "chosen"]
) -> Float[Tensor, "chosen elements width"]:
    found = store(t)
    assert found is not None
    assert found.tangent is not None
    return found.tangent[some]


@dataclass(frozen=True, eq=False)
class ShardEquations:
    """Normal equations of a shard."""

    rows: Rows
    weights: RowWeights

    def __call__(self, shard: Sequence[int]) -> NormalEquations:
        """Of its structures."""
        return NormalEquations.of(self.rows(shard), self.weights)


def anchor_equations(
    anchors: TrainingSet | None, rows: Rows, layers: Sequence[str], weights: RowWeights
) -> NormalEquations | None:
    """Of structures at which the part of the kernel on features is asked to vanish; None without any.

    All of it counts as `gram`: the probed rows of anchors stand for themselves, also beside all force components.
    """
    if anchors is None:
        return None
    basis = rows.basis
    features = Rows(anchors, anchors.extraction.select(layers), rows.scaler, JointBasis(basis.features))
    found = HERE.sum(ShardEquations(features, weights), features.shards())
    gram = torch.zeros(len(basis), len(basis), dtype=torch.float64)
    gram[: len(basis.features), : len(basis.features)] = basis.features_share * found.total
    none = torch.zeros(len(basis), rows.data.columns.shape[1], dtype=torch.float64)
    return NormalEquations(gram, torch.zeros_like(gram), none, none, n_pinned=len(anchors))
