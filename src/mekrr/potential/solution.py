"""Solving at the chosen hyperparameters on all training structures: sums over shards, one factor, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure
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
from mekrr.potential.full_forces import ForceProduct, full_solution
from mekrr.potential.model import Model, TangentPart
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.training import StageProgress, TrainingSet, group_count
from mekrr.shards import HERE, Shards
from mekrr.solve import (
    Factor,
    Iterations,
    NormalEquations,
    Observation,
    Residuals,
    RowWeights,
    leave_one_structure_out,
)
from mekrr.tune import Judged, Plan, Trial, criterion_for, make_trials, observation, ridge_unit
from mekrr.typing import Float, Int, Tensor

TANGENT_ROWS = 2500  # that span the tangent kernel's basis, at most: leave-one-out's matrices grow with their square
KEPT_BYTES = 1_000_000_000  # of rows kept from the equations to leave-one-out
SHARD_ATOMS = 2000  # whose rows are in memory at once
COVERAGE = 0.6827  # of one standard deviation of a normal distribution


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
    """

    data: TrainingSet
    extraction: Extraction
    scaler: Scaler
    basis: JointBasis
    energies: Float[Tensor, "structures groups"] | None = None
    kept: dict[int, list[Observation]] = field(default_factory=dict)
    centres: Int[Tensor, "groups"] | None = None

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
        psi = []
        for t, d in zip(shard, derivatives, strict=True):
            x = self.scaler(self.extraction.environments[torch.tensor([t])])
            psi.append(self.basis.features.rows(x, None if d is None else d.features))
        if self.basis.tangent is not None:  # all rows of the shard at once: the products are large
            T = torch.cat([d.tangent for d in derivatives if d is not None and d.tangent is not None])
            psi = list(self.basis.join(torch.cat(psi), T).split([len(one) for one in psi]))
        return [self._observation(*each) for each in zip(shard, psi, derivatives, strict=True)]

    def _observation(self, t: int, psi: Float[Tensor, "rows groups"], derivatives: Derivatives | None) -> Observation:
        data, n = self.data, self.data.n_atoms[t]
        noise = float(energy_noise(n[None], self.basis.kernel.embedding))
        return observation(psi, data.columns[t], derivatives, int(n), float(data.weights[t]), noise)

    def shards(self) -> list[list[int]]:
        """Consecutive structures, some atoms at a time; all at once where only energies are known."""
        sizes = self.extraction.environments.n_atoms.tolist()
        return list(batches(sizes, SHARD_ATOMS if self.energies is None else sum(sizes)))


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


@dataclass(frozen=True, eq=False)
class ShardResiduals:
    """Leave-one-structure-out of a shard, for one prior."""

    rows: Rows
    weights: RowWeights
    factor: Factor
    prior: Float[Tensor, "columns"]
    without: Float[Tensor, "structures columns"]
    ridges: Float[Tensor, "ridges"]

    def __call__(self, shard: Sequence[int]) -> Residuals:
        """Of its structures."""
        without = self.without[list(shard)][None]
        return leave_one_structure_out(
            self.factor, self.rows(shard), self.weights, self.prior[None], without, self.ridges
        )


@dataclass(frozen=True, eq=False)
class Solution:
    """What the fit found.

    Attributes:
        model: the potential's kernel part.
        loo_energies: leave-one-out residuals, eV.
        loo_forces: root mean square force residual of each structure left out, eV/Angstrom; NaN without forces.
        iterations: to the full forces; None when there were none.
        best: the trial at the final ridge.
        n_anchors: structures at which the part on features was asked to vanish.
        criterion: by which the ridge was chosen.
        warnings: what to know.
        centres: training atoms that are the inducing environments; None without any.
    """

    model: Model
    loo_energies: Float[Tensor, "structures"]
    loo_forces: Float[Tensor, "structures"]
    iterations: Iterations | None
    best: Trial
    n_anchors: int
    criterion: str
    warnings: tuple[str, ...]
    centres: Int[Tensor, "groups"] | None = None


def solve(
    structures: Sequence[Structure],
    data: TrainingSet,
    plan: Plan,
    best: Trial,
    options: FitOptions,
    backbone: Backbone,
    progress: StageProgress | None = None,
    anchors: TrainingSet | None = None,
    who: Shards = HERE,
) -> Solution:
    """Solve on all training structures at the chosen hyperparameters; the ridge is chosen again for the whole set.

    Leave-one-out sees probed rows. Its errors and the deviations calibrated on them are those of the probed equations,
    on the safe side of the full solution. Anchors shape the solution and what leave-one-out sees of it; the deviations
    do not take them for data.
    """
    rows, raw, floor = make_rows(data, plan, best, options)
    weights = RowWeights(best.force_weight or 0.0, options.stress_weight)
    shards = rows.shards()
    data_alone = HERE.sum(ShardEquations(rows, weights), shards)
    pinned = anchor_equations(anchors, rows, best.layers, weights)
    factor = Factor.of(data_alone if pinned is None else data_alone + pinned)
    prior = data.prior_columns(best.prior)
    ridges = final_ridges(best, options, floor)
    left_out = ShardResiduals(rows, weights, factor, prior.coefficients, prior.without, ridges)
    residuals = HERE.sum(left_out, shards)
    criterion = criterion_for(options.criterion, data.has_forces, plan.of_structures)
    judged = Judged.of(residuals, factor, prior.coefficients[None], ridges, data.noise(options.embedding))
    at = (best.length_scale, best.species_weight, weights.force)
    tangent = (best.tangent_share, best.tangent_amplitude)
    trial = make_trials(best.layers, [prior], residuals, judged, data.n_atoms, ridges, criterion, at, tangent)[0]
    r, ridge = trial.best, trial.ridge
    whitened = factor.solve(factor.equations.total_moments @ prior.coefficients, ridge)
    equations, iterations, messages = data_alone, None, []
    if options.exact_forces and equations.probed_share < 1.0:
        space = None if rows.basis.tangent is None else data.space
        task = ForceProduct(structures, backbone, best.layers, rows.scaler, rows.basis, space)
        whitened, iterations = full_solution(task, factor, weights.force, prior.coefficients, ridge, progress, who)
        messages += [] if iterations.converged else [_not_converged(iterations)]
        # the moments whose probed solution is the full one: with nothing added, an update changes nothing
        implied = factor.equations.total @ whitened + ridge * whitened
        equations = equations.with_moments(implied - equations.total_moments @ prior.coefficients)
    model = Model(
        plan.solver,
        raw,
        rows.scaler,
        rows.basis.kernel,
        rows.basis.coefficients(whitened),
        equations,
        ridge,
        weights,
        rows.basis.features.jitter,
        *_amplitudes(residuals, r),
        TangentPart.of(data.space, rows.basis, whitened),
        None if pinned is None else pinned.total,
    )
    return Solution(
        model,
        residuals.energy[0, r],
        residuals.force[0, r],
        iterations,
        trial,
        0 if anchors is None else len(anchors),
        criterion,
        tuple(messages),
        rows.centres,
    )


def make_rows(data: TrainingSet, plan: Plan, best: Trial, options: FitOptions) -> tuple[Rows, Environments, float]:
    """Basis and rows at the chosen hyperparameters, the raw centres, and the smallest ridge above rounding."""
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
        return Rows(data, extraction, scaler, _joint(data, features, best, options.seed), centres=chosen), raw, 0.0
    x = scaler(raw)
    K = kernel.gram(x)
    basis = Basis.of(x, kernel, K, relative=plan.jitter)
    floor = plan.floor(x, pointwise, options.embedding) * ridge_unit(K, data.n_atoms, options.embedding)
    energies = K * Pooling.of(x, options.embedding).scale[:, None]
    return Rows(data, extraction, scaler, JointBasis(basis), energies), raw, floor


def _joint(data: TrainingSet, features: Basis, best: Trial, seed: int) -> JointBasis:
    """With the tangent kernel where it has a share."""
    if best.tangent_share == 0.0 or data.store is None:
        return JointBasis(features)
    # of many structures few rows are drawn: only these are ever in memory together
    chosen = drawn([data.store.tangent_rows.get(t, 0) for t in range(len(data))], TANGENT_ROWS, seed)
    functions = torch.cat([_tangent_rows(data.store, t, some) for t, some in enumerate(chosen) if len(some)])
    tangent = TangentBasis.of(functions, best.species_weight, best.tangent_amplitude)
    return JointBasis(features, tangent, best.tangent_share)


def _tangent_rows(
    store: DerivativeStore, t: int, some: Int[Tensor, "chosen"]
) -> Float[Tensor, "chosen elements width"]:
    found = store(t)
    assert found is not None
    assert found.tangent is not None
    return found.tangent[some]


def final_ridges(best: Trial, options: FitOptions, floor: float) -> Float[Tensor, "ridges"]:
    """Ridges for the whole set: the user's, or those of the search that stand above rounding there."""
    if options.ridge != AUTO:
        return torch.tensor([float(options.ridge)], dtype=torch.float64)
    kept = [ridge for ridge in best.ridges if ridge >= floor]
    return torch.tensor(kept or [max(floor, best.ridge)], dtype=torch.float64)


def _amplitudes(residuals: Residuals, r: int) -> tuple[float, float | None]:
    """Scales of the variances of energies and forces, so that 68% of the residuals lie within one deviation.

    Calibrated by coverage: the amplitude of the evidence would follow the few largest residuals.
    """
    energy_ratio = (residuals.energy[0, r].square() / residuals.energy_variance[r]).sqrt()
    force_ratio = residuals.force_ratio[0, r]
    forces = float(force_ratio.nanmedian()) if bool(torch.isfinite(force_ratio).any()) else None
    return float(torch.quantile(energy_ratio, COVERAGE)) ** 2, forces


def _not_converged(iterations: Iterations) -> str:
    return (
        f"exact forces stopped after {len(iterations.residuals)} iterations at a relative residual of "
        f"{iterations.residuals[-1]:.2g}; the potential lies between the probed and the full solution. More --probes "
        "make the iteration faster"
    )
