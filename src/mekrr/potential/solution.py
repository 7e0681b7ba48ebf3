"""Solving at the chosen hyperparameters on all training structures: sums over shards, one factor, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.potential.full_forces import ForceProduct, full_solution
from mekrr.potential.held_out import COVERAGE, Rehearsal
from mekrr.potential.model import Model, TangentPart
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.rehearsal import rehearse, to_hold_out
from mekrr.potential.rows import Rows, ShardEquations, anchor_equations, make_rows
from mekrr.potential.training import StageProgress, TrainingSet
from mekrr.shards import HERE, Shards
from mekrr.solve import Factor, Iterations, Residuals, RowWeights, leave_one_structure_out
from mekrr.tune import Judged, Plan, Trial, criterion_for, make_trials
from mekrr.typing import Float, Int, Tensor


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
        rehearsal: of the full forces, on structures held out; None when there was none.
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
    rehearsal: Rehearsal | None = None


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

    Leave-one-out sees probed rows. Its errors are those of the probed equations; the deviations calibrated on them are
    corrected by what the full solution gains on structures that are held out first, where there are enough. Anchors
    shape the solution and what leave-one-out sees of it; the deviations do not take them for data.
    """
    held = to_hold_out(structures, options.seed) if data.has_forces and options.exact_forces else []
    rows, raw, floor = make_rows(data, plan, best, options, held)
    weights = RowWeights(best.force_weight or 0.0, options.stress_weight)
    shards = rows.shards()
    data_alone = HERE.sum(ShardEquations(rows, weights), shards)
    pinned = anchor_equations(anchors, rows, best.layers, weights)
    factor = Factor.of(data_alone if pinned is None else data_alone + pinned)
    prior = data.prior_columns(best.prior)
    ridges = final_ridges(best, options, max(floor, factor.rounding))
    left_out = ShardResiduals(rows, weights, factor, prior.coefficients, prior.without, ridges)
    residuals = HERE.sum(left_out, shards)
    criterion = criterion_for(options.criterion, data.has_forces, plan.of_structures)
    judged = Judged.of(residuals, factor, prior.coefficients[None], ridges, data.noise(options.embedding))
    at = (best.length_scale, best.species_weight, weights.force)
    tangent = (best.tangent_share, best.tangent_amplitude)
    trial = make_trials(best.layers, [prior], residuals, judged, data.n_atoms, ridges, criterion, at, tangent)[0]
    r, ridge = trial.best, trial.ridge
    whitened = factor.solve(factor.equations.total_moments @ prior.coefficients, ridge)
    equations, iterations, rehearsal, messages = data_alone, None, None, []
    if options.exact_forces and equations.probed_share < 1.0:
        space = None if rows.basis.tangent is None else data.space
        task = ForceProduct(structures, backbone, best.layers, rows.scaler, rows.basis, space)
        variance = residuals.energy_variance[r] + residuals.unexplained
        rehearsal = rehearse(task, rows, factor.equations, weights, best.prior, ridge, variance, progress, who)
        whitened, iterations = full_solution(
            task, factor.equations, weights.force, prior.coefficients, ridge, progress, who
        )
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
        *_amplitudes(residuals, r, rehearsal),
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
        rehearsal,
    )


def final_ridges(best: Trial, options: FitOptions, floor: float) -> Float[Tensor, "ridges"]:
    """Ridges for the whole set: the user's, or those of the search that stand above rounding there."""
    if options.ridge != AUTO:
        return torch.tensor([float(options.ridge)], dtype=torch.float64)
    kept = [ridge for ridge in best.ridges if ridge >= floor]
    return torch.tensor(kept or [max(floor, best.ridge)], dtype=torch.float64)


def _amplitudes(residuals: Residuals, r: int, rehearsal: Rehearsal | None) -> tuple[float, float | None]:
    """Scales of the variances of energies and forces, so that 68% of the residuals lie within one deviation.

    Calibrated by coverage: the amplitude of the evidence would follow the few largest residuals. The variances are
    those of predictions, what the basis does not express among them, which is nothing to leave-one-out.
    """
    variance = residuals.energy_variance[r] + residuals.unexplained
    energy_ratio = (residuals.energy[0, r].square() / variance).sqrt()
    force_ratio = residuals.force_ratio[0, r]
    energy = float(torch.quantile(energy_ratio, COVERAGE)) ** 2
    force = float(force_ratio.nanmedian()) if bool(torch.isfinite(force_ratio).any()) else None
    if rehearsal is not None:
        energy *= rehearsal.energy_ratio**2
        force = force if force is None or rehearsal.force_ratio is None else force * rehearsal.force_ratio**2
    return energy, force


def _not_converged(iterations: Iterations) -> str:
    return (
        f"exact forces stopped after {len(iterations.residuals)} iterations at a relative residual of "
        f"{iterations.residuals[-1]:.2g}; the potential lies between the probed and the full solution. More --probes "
        "make the iteration faster"
    )
