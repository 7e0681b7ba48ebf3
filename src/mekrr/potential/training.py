"""From an extraction of training structures to a chosen and solved regression."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from mekrr.backbones import Backbone
from mekrr.features import Environments, Extraction, Scaler
from mekrr.kernels import gram, make_kernel
from mekrr.potential.options import AUTO, FitOptions
from mekrr.prior import NEEDS_BACKBONE, PRIORS, Compositions, fit_prior
from mekrr.solve import LeaveOneOut, RidgeFactor, leave_one_out
from mekrr.tune import MEDIAN, Choice, Grid, PriorCandidate, SearchProblem, Trial, ridge_floor, search
from mekrr.typing import Float, Int, Tensor

StageProgress = Callable[[str, int, int], None]


@dataclass
class Stopwatch:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The labels of a fit beside its extraction.

    Attributes:
        extraction: features of every layer that may be chosen, and backbone energies.
        energies: DFT, eV.
        weights: of the structures.
        references: energies of isolated atoms, eV, where the options ask for them.
    """

    extraction: Extraction
    energies: Float[Tensor, "structures"]
    weights: Float[Tensor, "structures"]
    references: Mapping[int, float]

    @property
    def n_atoms(self) -> Float[Tensor, "structures"]:
        """Atoms of each structure."""
        return self.extraction.environments.n_atoms.double()

    def noise(self, embedding: str) -> Float[Tensor, "structures"]:
        """What the ridge is multiplied by."""
        return (self.n_atoms if embedding == "sum" else torch.ones_like(self.energies)) / self.weights


@dataclass(frozen=True, eq=False)
class Regression:
    """The regression at the chosen hyperparameters."""

    scaler: Scaler
    dual_coef: Float[Tensor, "structures"]
    half_inverse: Float[Tensor, "structures structures"]
    loo: LeaveOneOut
    ridge: float


def layer_candidates(options: FitOptions, backbone: Backbone) -> list[tuple[str, ...]]:
    """Sets of layers to choose from: each inner layer by itself, and all layers up to a depth.

    Raises:
        ValueError: for a layer the backbone does not have.
    """
    if options.layers != AUTO:
        unknown = [name for name in options.layers if name not in backbone.layers]
        if unknown:
            raise ValueError(
                f"{backbone.name} has no layer {', '.join(unknown)}; choose from {', '.join(backbone.layers)}"
            )
        return [tuple(options.layers)]
    depth = len(backbone.layers)
    if depth == 1:
        return [backbone.layers]
    singles = [(name,) for name in backbone.layers[1 : max(2, depth - 1)]]
    prefixes = [backbone.layers[: k + 1] for k in range(1, depth)]
    return list(dict.fromkeys([*singles, *prefixes]))


def prior_candidates(options: FitOptions, data: TrainingData) -> list[str]:
    """Names of the priors to choose from; with one composition only, "none" is the same as "composition"."""
    if options.prior != AUTO:
        return [options.prior]
    environments = data.extraction.environments
    compositions = Compositions.of(environments.species, environments.n_atoms)
    names = [name for name in PRIORS if data.extraction.energies is not None or name not in NEEDS_BACKBONE]
    return [name for name in names if name != "none" or compositions.rank > 1]


def search_problem(
    data: TrainingData, options: FitOptions, backbone: Backbone, progress: StageProgress | None
) -> SearchProblem:
    """The choice to be made, for any subset of the data."""
    layer_sets = layer_candidates(options, backbone)
    names = prior_candidates(options, data)

    def features(layers: tuple[str, ...], chosen: Int[Tensor, "chosen"]) -> Environments:
        part = data.extraction.select(layers)[chosen]
        return Scaler.fit(part.environments.features, part.widths)(part.environments)

    def priors(chosen: Int[Tensor, "chosen"]) -> list[PriorCandidate]:
        return [_prior_candidate(name, data, chosen, options) for name in names]

    grid = grid_of(options)
    report = None if progress is None else lambda done, total: progress("kernel", done, total)
    return SearchProblem(layer_sets, features, priors, data.noise(options.embedding), data.n_atoms, grid, report)


def choose(
    data: TrainingData, options: FitOptions, backbone: Backbone, progress: StageProgress | None = None
) -> Choice:
    """Leave-one-out's choice of everything left to it."""
    return search(search_problem(data, options, backbone, progress), options.seed)


def solve_at(data: TrainingData, best: Trial, options: FitOptions, progress: StageProgress | None = None) -> Regression:
    """Solve on all training structures at the chosen hyperparameters.

    Where the search saw a subset only, its ridge is kept, raised if the larger matrix has rounding above it.
    """
    part = data.extraction.select(best.layers)
    scaler = Scaler.fit(part.environments.features, part.widths)
    kernel = make_kernel(options.kernel, best.length_scale)
    report = None if progress is None else lambda done, total: progress("solve", done, total)
    pair = gram(scaler(part.environments), None, kernel, options.embedding, progress=report)
    K = pair.mix(0, best.species_weight)
    noise = data.noise(options.embedding)
    factor = RidgeFactor.of(K, noise)
    candidate = _prior_candidate(best.prior, data, torch.arange(len(data.energies)), options)
    ridge = best.ridge
    if options.ridge == AUTO:
        ridge = max(ridge, ridge_floor(len(K), pair.noise[0]) * float(K.diagonal().mean() / noise.mean()))
    ridges = torch.tensor([ridge], dtype=torch.float64)
    coefficients = factor.solve(candidate.residual[:, None], ridges)[0, :, 0]
    return Regression(
        scaler,
        coefficients,
        factor.half_inverse(ridge),
        leave_one_out(factor, candidate.target, candidate.linear, ridges),
        ridge,
    )


def fit_named_prior(name: str, data: TrainingData, chosen: Int[Tensor, "chosen"], isolated_atoms: bool) -> tuple:
    """Prior, regression problem and design of one prior on chosen structures."""
    part = data.extraction[chosen]
    compositions = Compositions.of(part.environments.species, part.environments.n_atoms)
    references = data.references if isolated_atoms else None
    return fit_prior(name, data.energies[chosen], compositions, part.energies, data.weights[chosen], references)


def _prior_candidate(
    name: str, data: TrainingData, chosen: Int[Tensor, "chosen"], options: FitOptions
) -> PriorCandidate:
    """In the embedding's units: eV for sum, eV/atom for mean."""
    _, linear, design = fit_named_prior(name, data, chosen, options.isolated_atoms)
    target = data.energies[chosen] - design.fixed
    if options.embedding == "mean":
        n = data.n_atoms[chosen]
        target, linear = target / n, replace(linear, H=linear.H / n[:, None])
    return PriorCandidate(name, target, linear, name in NEEDS_BACKBONE)


def grid_of(options: FitOptions) -> Grid:
    """Values to choose from, those that the options fix among them."""
    grid = Grid(kernel=options.kernel, embedding=options.embedding, criterion=options.criterion)
    if options.kernel == "linear":
        grid = replace(grid, length_scales=(1.0,), length_scale_fixed=True)
    if options.kernel == "polynomial":
        grid = replace(grid, length_scales=(4.0, 2.0, 1.0, 0.5), length_scale_fixed=True)
    if options.length_scale == "median":
        grid = replace(grid, length_scales=MEDIAN, length_scale_fixed=True)
    elif options.length_scale != AUTO:
        grid = replace(grid, length_scales=(float(options.length_scale),), length_scale_fixed=True)
    if options.species_weight != AUTO:
        grid = replace(grid, species_weights=(float(options.species_weight),))
    if options.ridge != AUTO:
        grid = replace(grid, ridges=(float(options.ridge),), ridge_fixed=True)
    return grid
