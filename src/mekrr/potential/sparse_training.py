"""The sparse solver's fit: derivatives, choice, normal equations in shards, leave-one-out, exact forces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.features import Derivatives, DerivativeStore, Environments, Extraction, Scaler, batches
from mekrr.kernels import Inducing, PointwiseKernel, design_rows, make_kernel
from mekrr.potential.exact_forces import ForceGram, Iterations, conjugate_gradients
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.sparse import SparseModel
from mekrr.potential.training import (
    StageProgress,
    TrainingData,
    fit_named_prior,
    grid_of,
    layer_candidates,
    prior_candidates,
)
from mekrr.prior import NEEDS_BACKBONE, Compositions, column_coefficients, target_columns
from mekrr.solve import (
    Block,
    BlockResiduals,
    NormalEquations,
    RowWeights,
    SparseFactor,
    cholesky_with_jitter,
    choose_inducing,
    default_count,
    leave_one_structure_out,
    whiten,
)
from mekrr.tune import (
    FORCE_WEIGHTS,
    LENGTH_SCALES,
    RIDGES,
    Choice,
    PriorColumns,
    Probed,
    SparseProblem,
    Trial,
    make_block,
    scores_of,
    search_sparse,
    trials_of,
)
from mekrr.typing import Float, Int, Tensor

PRECONDITIONER_RIDGE = 0.3  # of the probed ridge: between it, which damps the iteration, and the full one
SHARD_ATOMS = 2000  # whose rows are in memory at once
COVERAGE = 0.6827  # of one standard deviation of a normal distribution


@dataclass(frozen=True, eq=False)
class SparseData:
    """Labels, features and derivatives of the training structures.

    Attributes:
        base: extraction and energies.
        store: derivatives; None when forces and stress are left out.
        columns: energy targets: DFT, backbone, atoms of each element.
        elements: of the columns.
    """

    base: TrainingData
    store: DerivativeStore | None
    columns: Float[Tensor, "structures columns"]
    elements: tuple[int, ...]

    @staticmethod
    def of(base: TrainingData, store: DerivativeStore | None, elements: Sequence[int] | None = None) -> "SparseData":
        """From an extraction and its derivatives; the elements are those of the data unless given."""
        environments = base.extraction.environments
        compositions = Compositions.of(environments.species, environments.n_atoms, elements)
        columns = target_columns(base.energies, base.extraction.energies, compositions)
        return SparseData(base, store, columns, compositions.elements)

    def derivatives(self, t: int, layers: tuple[str, ...], scaler: Scaler) -> Derivatives | None:
        """Of structure t, with standardised features."""
        found = None if self.store is None else self.store(t, layers)
        return None if found is None else replace(found, features=found.features.double() / scaler.scale)

    @property
    def has_forces(self) -> bool:
        """Whether any structure brings force rows."""
        store = self.store
        return store is not None and any(
            (found := store(t)) is not None and found.n_forces for t in range(len(store.keys))
        )


@dataclass(frozen=True, eq=False)
class SparseSolution:
    """What the fit found.

    Attributes:
        model: the potential's kernel part.
        loo_energies: leave-one-out residuals, eV.
        loo_forces: root mean square force residual of each structure left out, eV/Angstrom; NaN without forces.
        iterations: of the exact forces; None when not asked for.
        best: the trial at the final ridge.
        warnings: what to know.
    """

    model: SparseModel
    loo_energies: Float[Tensor, "structures"]
    loo_forces: Float[Tensor, "structures"]
    iterations: Iterations | None
    best: Trial
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Basis:
    """A chosen basis over all training structures.

    Attributes:
        data: of the fit.
        extraction: of the chosen layers.
        scaler: fitted on all training atoms.
        inducing: standardised.
        raw: the same, raw.
        kernel: pointwise.
        species_weight: w.
        weights: of rows.
        L: Cholesky factor of K_mm.
        jitter: on its diagonal.
    """

    data: SparseData
    extraction: Extraction
    scaler: Scaler
    inducing: Inducing
    raw: Environments
    kernel: PointwiseKernel
    species_weight: float
    weights: RowWeights
    L: Float[Tensor, "inducing inducing"]
    jitter: float

    def shards(self) -> Iterator[list[Block]]:
        """Rows of all structures, some structures at a time."""
        sizes = self.extraction.environments.n_atoms.tolist()
        for shard in batches(sizes, SHARD_ATOMS):
            yield [self.block(t) for t in shard]

    def block(self, t: int) -> Block:
        """Whitened rows and targets of one structure."""
        derivatives = self.data.derivatives(t, self.extraction.layers, self.scaler)
        x = self.scaler(self.extraction.environments[torch.tensor([t])])
        features = None if derivatives is None else derivatives.features
        phi = design_rows(x, features, self.inducing, self.kernel)[0].mix(self.species_weight)
        phi = whiten(phi, self.L)
        return make_block(phi, self.data.columns[t], derivatives, len(x.species), float(self.data.base.weights[t]))

    def equations(self) -> NormalEquations:
        """Summed over all structures."""
        found = NormalEquations.empty(len(self.inducing.species), self.data.columns.shape[1])
        for shard in self.shards():
            found = found + NormalEquations.of(shard, self.weights)
        return found

    def leave_one_out(
        self,
        factor: SparseFactor,
        equations: NormalEquations,
        prior: Float[Tensor, "structures columns"],
        ridges: Float[Tensor, "ridges"],
    ) -> BlockResiduals:
        """Of all structures, for one prior."""
        parts, start = [], 0
        for shard in self.shards():
            own = prior[None, start : start + len(shard)]
            parts.append(leave_one_structure_out(factor, equations.moments, shard, self.weights, own, ridges))
            start += len(shard)
        return BlockResiduals.concatenate(parts)


def choose_sparse(
    data: SparseData,
    options: FitOptions,
    backbone: Backbone,
    progress: StageProgress | None = None,
    exhaustive: bool = False,
) -> Choice:
    """Leave-one-structure-out's choice of everything left to it, coarse to fine unless it is to be exhaustive."""
    base = data.base

    def features(layers: tuple[str, ...], chosen: Int[Tensor, "chosen"]) -> Probed:
        part = base.extraction.select(layers)[chosen]
        scaler = Scaler.fit(part.environments.features, part.widths)
        return Probed(scaler(part.environments), [data.derivatives(int(t), layers, scaler) for t in chosen])

    def priors(chosen: Int[Tensor, "chosen"]) -> list[PriorColumns]:
        return [prior_columns(name, data, chosen, options.isolated_atoms) for name in prior_candidates(options, base)]

    report = None if progress is None else lambda done, total: progress("kernel", done, total)
    weights = (0.0,) if not data.has_forces else FORCE_WEIGHTS
    if options.force_weight != AUTO and data.has_forces:
        weights = (float(options.force_weight),)
    grid = grid_of(options)
    grid = grid if grid.ridge_fixed else replace(grid, ridges=RIDGES)
    grid = grid if grid.length_scale_fixed else replace(grid, length_scales=LENGTH_SCALES)
    return search_sparse(
        SparseProblem(
            layer_candidates(options, backbone),
            features,
            priors,
            data.columns,
            base.weights,
            grid,
            weights,
            options.stress_weight,
            _count(options, base.extraction.environments),
            report,
        ),
        options.seed,
        exhaustive,
    )


def prior_columns(name: str, data: SparseData, chosen: Int[Tensor, "chosen"], isolated_atoms: bool) -> PriorColumns:
    """A prior on chosen structures as a combination of the target columns."""
    _, linear, design = fit_named_prior(name, data.base, chosen, isolated_atoms)
    references: Mapping[int, float] | None = data.base.references if isolated_atoms else None
    return PriorColumns(
        name,
        column_coefficients(design, linear.beta, data.elements, references),
        column_coefficients(design, linear.beta_without, data.elements, references),
        name in NEEDS_BACKBONE,
    )


def solve_sparse(
    structures: Sequence[Structure],
    data: SparseData,
    best: Trial,
    options: FitOptions,
    backbone: Backbone,
    progress: StageProgress | None = None,
) -> SparseSolution:
    """Solve on all training structures at the chosen hyperparameters; the ridge is chosen again for the whole set."""
    basis = make_basis(data, best, options)
    equations = basis.equations()
    factor = SparseFactor.of(equations.total)
    prior = prior_columns(best.prior, data, torch.arange(len(data.columns)), options.isolated_atoms)
    ridges = torch.tensor(best.ridges if options.ridge == AUTO else (float(options.ridge),), dtype=torch.float64)
    residuals = basis.leave_one_out(factor, equations, prior.without, ridges)
    n = data.base.n_atoms
    r = int(scores_of(residuals, n)[0].argmax())
    ridge = float(ridges[r])
    trial = replace(
        trials_of(best.layers, [prior], residuals, n, ridges)[0],
        length_scale=best.length_scale,
        species_weight=best.species_weight,
        force_weight=best.force_weight,
    )
    whitened = factor.solve((equations.moments @ prior.coefficients)[:, None], ridge)[:, 0]
    iterations, messages = None, []
    if options.exact_forces and equations.probed_share < 1.0:
        whitened, iterations = _iterate(structures, basis, equations, factor, prior, ridge, backbone, progress)
        messages += [] if iterations.converged else [_not_converged(iterations)]
        implied = equations.total @ whitened + ridge * whitened
        equations = equations.with_moments(implied - equations.moments @ prior.coefficients)
    energy_ratio = (residuals.energy[0, r].square() / residuals.energy_variance[r]).sqrt()
    force_ratio = residuals.force_ratio[0, r]
    model = SparseModel(
        basis.raw.features,
        basis.inducing.species,
        basis.scaler,
        basis.kernel,
        basis.species_weight,
        ridge,
        basis.weights,
        torch.linalg.solve_triangular(basis.L.T, whitened[:, None], upper=True)[:, 0],
        equations,
        basis.jitter,
        float(torch.quantile(energy_ratio, COVERAGE)) ** 2,
        float(force_ratio.nanmedian()) if bool(torch.isfinite(force_ratio).any()) else None,
    )
    return SparseSolution(model, residuals.energy[0, r], residuals.force[0, r], iterations, trial, tuple(messages))


def make_basis(data: SparseData, best: Trial, options: FitOptions) -> Basis:
    """Inducing environments and rows at the chosen hyperparameters."""
    extraction = data.base.extraction.select(best.layers)
    scaler = Scaler.fit(extraction.environments.features, extraction.widths)
    environments = extraction.environments
    rows = choose_inducing(scaler(environments), _count(options, environments), options.seed)
    raw = Environments(environments.features[rows], environments.species[rows], torch.tensor([len(rows)]))
    inducing = Inducing(scaler(raw).features, raw.species)
    kernel = make_kernel(options.kernel, best.length_scale)
    L, jitter = cholesky_with_jitter(inducing.gram(kernel, best.species_weight))
    weights = RowWeights(best.force_weight or 0.0, options.stress_weight)
    return Basis(data, extraction, scaler, inducing, raw, kernel, best.species_weight, weights, L, jitter)


def _iterate(
    structures: Sequence[Structure],
    basis: Basis,
    equations: NormalEquations,
    factor: SparseFactor,
    prior: PriorColumns,
    ridge: float,
    backbone: Backbone,
    progress: StageProgress | None,
) -> tuple[Float[Tensor, "inducing"], Iterations]:
    """Solve the equations of all force components.

    A probed row stands for 1 / probed_share components and carries the noise of one, so leave-one-out, which sees
    probed rows, chooses a ridge that is larger by that factor than the full equations want.
    """
    full_ridge = ridge * equations.probed_share
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("exact forces", done, 0)

    forces = ForceGram(
        structures,
        backbone,
        basis.extraction.layers,
        basis.scaler,
        basis.inducing,
        basis.kernel,
        basis.species_weight,
        report,
    )

    def product(c: Float[Tensor, "inducing"]) -> Float[Tensor, "inducing"]:
        raw = torch.linalg.solve_triangular(basis.L.T, c[:, None], upper=True)[:, 0]
        return equations.gram @ c + basis.weights.force * whiten(forces(raw)[None], basis.L)[0] + full_ridge * c

    def precondition(r: Float[Tensor, "inducing"]) -> Float[Tensor, "inducing"]:
        return factor.solve(r[:, None], PRECONDITIONER_RIDGE * ridge)[:, 0]

    return conjugate_gradients(product, equations.moments @ prior.coefficients, precondition)


def _not_converged(iterations: Iterations) -> str:
    return (
        f"exact forces stopped after {len(iterations.residuals)} iterations at a relative residual of "
        f"{iterations.residuals[-1]:.2g}; the potential lies between the probed and the full solution. More --probes "
        "make the iteration faster"
    )


def _count(options: FitOptions, environments: Environments) -> int:
    if options.inducing == AUTO:
        return default_count(environments)
    return int(options.inducing)
