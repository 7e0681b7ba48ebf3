"""Choosing everything of the sparse solver by closed-form leave-one-structure-out.

What is maximised is minus the logarithm of the geometric mean of two leave-one-out errors: the mean absolute energy
error over sqrt(n), and the mean over structures of the root-mean-square force error. Its ratio form makes eV and
eV/Angstrom comparable without a weight, and means of first powers are not ruled by a few violent structures.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.features import Derivatives, Environments
from mekrr.kernels import Inducing, Rows, design_rows, make_kernel
from mekrr.kernels.tiles import Progress
from mekrr.solve import (
    Block,
    BlockResiduals,
    NormalEquations,
    RowWeights,
    SparseFactor,
    cholesky_with_jitter,
    choose_inducing,
    leave_one_structure_out,
    whiten,
)
from mekrr.tune.problem import MEDIAN, Grid, Trial, best_of, median_distance
from mekrr.tune.safety import prefer_safe, prefer_short, prior_warnings
from mekrr.tune.search import Choice
from mekrr.typing import Float, Int, Tensor

SCREENING = (50, 200)  # structures and inducing environments on which layers are screened
SEARCH = (200, 400)  # and on which the rest is chosen
FORCE_WEIGHTS = tuple(10.0 ** (-5 + 0.5 * step) for step in range(11))
RIDGES = tuple(10.0 ** (-10 + 0.5 * step) for step in range(23))
LENGTH_SCALES = tuple(16.0 / 2 ** (rung / 2) for rung in range(10))  # in units of sqrt(features)
COMPARISON = (200, 1500)  # and on which the layers of the finalists are compared
FINE = 10  # values; a longer axis is walked two values at a time
PERFECT = 1e-12  # the smallest error that counts, so that an exact fit has a finite score

Point = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Probed:
    """Standardised environments and derivatives of some structures.

    Attributes:
        environments: float64.
        derivatives: with standardised features; None where a structure has neither forces nor stress.
    """

    environments: Environments
    derivatives: Sequence[Derivatives | None]


@dataclass(frozen=True)
class PriorColumns:
    """A prior as a combination of the target columns (DFT, backbone, atoms of each element).

    Attributes:
        name: of the prior.
        coefficients: of the fit to all structures.
        without: row t: of the fit without structure t.
        safe: whether it falls back on a physical model far from the data.
    """

    name: str
    coefficients: Float[Tensor, "columns"]
    without: Float[Tensor, "structures columns"]
    safe: bool = False


@dataclass(frozen=True)
class SparseProblem:
    """Everything the search needs, for any subset of the training structures.

    Attributes:
        layer_sets: choices of layers.
        features: standardised environments and derivatives of a layer set for chosen structures.
        priors: candidates for chosen structures.
        columns: energy targets: DFT, backbone, atoms of each element.
        weights: of the structures.
        grid: values to choose from; its ridges are absolute.
        force_weights: Angstrom^2; a single 0 without forces.
        stress_weight: see RowWeights.
        inducing: how many at most.
        progress: structures whose rows are done, and all.
    """

    layer_sets: Sequence[tuple[str, ...]]
    features: Callable[[tuple[str, ...], Int[Tensor, "chosen"]], Probed]
    priors: Callable[[Int[Tensor, "chosen"]], Sequence[PriorColumns]]
    columns: Float[Tensor, "structures columns"]
    weights: Float[Tensor, "structures"]
    grid: Grid
    force_weights: tuple[float, ...]
    stress_weight: float
    inducing: int
    progress: Progress | None = None


def make_block(
    phi: Float[Tensor, "rows inducing"],
    energy_columns: Float[Tensor, "columns"],
    derivatives: Derivatives | None,
    n_atoms: int,
    weight: float,
) -> Block:
    """Whitened rows and targets of one structure."""
    columns = torch.zeros(len(phi), len(energy_columns), dtype=torch.float64)
    columns[0] = energy_columns
    if derivatives is not None:
        columns[1:, 0], columns[1:, 1] = derivatives.dft, derivatives.own
    return Block(phi, columns, n_atoms, 0 if derivatives is None else derivatives.n_forces, weight)


def scores_of(residuals: BlockResiduals, n_atoms: Float[Tensor, "structures"]) -> Float[Tensor, "priors ridges"]:
    """Minus the log of the geometric mean of energy and force errors; of the energy error alone without forces."""
    energy = (residuals.energy.abs() / n_atoms.sqrt()).mean(-1).clamp_min(PERFECT).log()
    force = residuals.force.nanmean(-1).clamp_min(PERFECT).log()
    found = torch.where(force.isnan(), -energy, -0.5 * (energy + force))
    return torch.nan_to_num(found, nan=-torch.inf)


class SparseSurface:
    """Trials over (length scale, species weight, force weight) for several priors, each evaluated once.

    Args:
        problem: values and candidates.
        layers: one choice of them.
        chosen: structures.
        inducing: how many.
        seed: of the inducing environments.
    """

    def __init__(
        self, problem: SparseProblem, layers: tuple[str, ...], chosen: Int[Tensor, "chosen"], inducing: int, seed: int
    ) -> None:
        self.problem = problem
        self.layers = layers
        self.chosen = chosen
        self.priors = problem.priors(chosen)
        probed = problem.features(layers, chosen)
        x = probed.environments
        rows = choose_inducing(x, min(inducing, len(x.species)), seed)
        self.inducing = Inducing(x.features[rows], x.species[rows])
        self.n_atoms = x.n_atoms.double()
        self.scales = self._scales(x.features)
        self.rows = self._all_rows(probed)
        self.labels = [None if d is None else d.labels() for d in probed.derivatives]
        self.trials: list[Trial] = []
        self.factorisations = 0
        self._done: dict[Point, list[Trial]] = {}

    def screen(self) -> list[Trial]:
        """The best trial of each prior on the coarse grid, with the ends of the species weights."""
        rungs, species_weights, force_weights = (_coarse(n) for n in self._axes())
        self._evaluate(itertools.product(rungs, sorted({species_weights[0], species_weights[-1]}), force_weights))
        return [best_of([t for t in self.trials if t.prior == prior.name]) for prior in self.priors]

    def trial(self, prior: str) -> Trial:
        """That of one prior where nothing but the ridge is left to choose."""
        self._evaluate([(0, 0, 0)])
        return next(trial for trial in self.trials if trial.prior == prior)

    def explore(self, exhaustive: bool = False) -> Trial:
        """The best trial: a coarse grid, then uphill from the best of each prior; or the whole grid."""
        rungs, species_weights, force_weights = (range(n) if exhaustive else _coarse(n) for n in self._axes())
        self._evaluate(itertools.product(rungs, species_weights, force_weights))
        for prior in self.priors:
            self._climb(prior.name)
            rung, w, g = self._position(prior.name)
            self._evaluate([(shorter, w, g) for shorter in range(rung + 1, len(self.scales))])
        return best_of(self.trials)

    def _axes(self) -> tuple[int, int, int]:
        return len(self.scales), len(self.problem.grid.species_weights), len(self.problem.force_weights)

    def _climb(self, prior: str) -> None:
        while True:
            position = self._position(prior)
            self._evaluate(self._neighbours(position))
            if self._position(prior) == position:
                return

    def _position(self, prior: str) -> Point:
        scored = {point: t.score for point, trials in self._done.items() for t in trials if t.prior == prior}
        return max(scored, key=scored.__getitem__)

    def _neighbours(self, point: Point) -> list[Point]:
        """One axis at a time, with a longer step along a fine grid of species weights."""
        found, axes = [], self._axes()
        for axis, step in enumerate((1, 2 if axes[1] > FINE else 1, 1)):
            for moved_to in (point[axis] - step, point[axis] + step):
                moved = list(point)
                moved[axis] = moved_to
                if 0 <= moved_to < axes[axis]:
                    found.append((moved[0], moved[1], moved[2]))
        return found

    def _scales(self, h: Float[Tensor, "atoms features"]) -> tuple[float, ...]:
        grid = self.problem.grid
        if grid.length_scales == MEDIAN:
            return (median_distance(h),)
        unit = 1.0 if grid.length_scale_fixed else h.shape[1] ** 0.5
        return tuple(scale * unit for scale in grid.length_scales)

    def _all_rows(self, probed: Probed) -> list[list[Rows]]:
        """Rows of each structure for each length scale, in one pass where the scales form a ladder."""
        ladder = all(abs(a / b - 2**0.5) < 1e-9 for a, b in itertools.pairwise(self.scales))
        kernels = [make_kernel(self.problem.grid.kernel, scale) for scale in self.scales]
        found = []
        for t in range(len(self.chosen)):
            x = probed.environments[torch.tensor([t])]
            derivatives = probed.derivatives[t]
            features = None if derivatives is None else derivatives.features
            if ladder and kernels[0].squares:
                found.append(design_rows(x, features, self.inducing, kernels[0], len(kernels)))
            else:
                found.append([design_rows(x, features, self.inducing, kernel)[0] for kernel in kernels])
            if self.problem.progress is not None:
                self.problem.progress(t + 1, len(self.chosen))
        return found

    def _evaluate(self, points: Iterable[Point]) -> None:
        for point in points:
            if point not in self._done:
                self._done[point] = self._ridge_paths(point)
                self.trials += self._done[point]

    def _ridge_paths(self, point: Point) -> list[Trial]:
        """All priors and ridges from one factorisation."""
        rung, w, g = point
        problem, weight = self.problem, self.problem.grid.species_weights[w]
        weights = RowWeights(problem.force_weights[g], problem.stress_weight)
        kernel = make_kernel(problem.grid.kernel, self.scales[rung])
        L, _ = cholesky_with_jitter(self.inducing.gram(kernel, weight))
        rows = [of_structure[rung].mix(weight) for of_structure in self.rows]
        whitened = whiten(torch.cat(rows), L).split([len(phi) for phi in rows])
        blocks = [
            make_block(
                phi,
                problem.columns[index],
                self.labels[t],
                int(self.n_atoms[t]),
                float(problem.weights[index]),
            )
            for t, (phi, index) in enumerate(zip(whitened, self.chosen.tolist(), strict=True))
        ]
        equations = NormalEquations.of(blocks, weights)
        factor = SparseFactor.of(equations.total)
        self.factorisations += 1
        ridges = torch.tensor(problem.grid.ridges, dtype=torch.float64)
        without = torch.stack([prior.without for prior in self.priors])
        found = leave_one_structure_out(factor, equations.moments, blocks, weights, without, ridges)
        force_weight = weights.force if equations.n_force_rows else None
        return [
            replace(trial, length_scale=self.scales[rung], species_weight=weight, force_weight=force_weight)
            for trial in trials_of(self.layers, self.priors, found, self.n_atoms, ridges)
        ]


def trials_of(
    layers: tuple[str, ...],
    priors: Sequence[PriorColumns],
    found: BlockResiduals,
    n_atoms: Float[Tensor, "structures"],
    ridges: Float[Tensor, "ridges"],
) -> list[Trial]:
    """Leave-one-out errors as trials, one a prior."""
    scores = scores_of(found, n_atoms)
    per_atom = 1000 * found.energy / n_atoms
    forces = 1000 * found.force.nanmean(-1)
    has_forces = bool(torch.isfinite(found.force).any())
    return [
        Trial(
            layers,
            prior.name,
            0.0,
            0.0,
            tuple(ridges.tolist()),
            tuple(scores[p].tolist()),
            tuple(per_atom[p].square().mean(-1).sqrt().tolist()),
            tuple(per_atom[p].abs().mean(-1).tolist()),
            loo_forces=tuple(forces[p].tolist()) if has_forces else (),
        )
        for p, prior in enumerate(priors)
    ]


def search_sparse(problem: SparseProblem, seed: int, exhaustive: bool = False) -> Choice:
    """Screen layer sets on a subset, search the best and the largest of them, and compare these in a larger basis.

    On few structures and inducing environments, small sets of features look better than they are with all of them.

    Args:
        problem: candidates and values.
        seed: of the subsets and the inducing environments.
        exhaustive: evaluate whole grids instead of coarse to fine.
    """
    screened: list[Trial] = []
    if len(problem.layer_sets) > 1:
        subset, inducing = _size(problem, SCREENING, seed)
        for layers in problem.layer_sets:
            screened += SparseSurface(problem, layers, subset, inducing, seed).screen()
        screened.sort(key=lambda trial: -trial.score)
    finalists = dict.fromkeys((*[t.layers for t in screened[:1]], max(problem.layer_sets, key=len)))
    subset, inducing = _size(problem, SEARCH, seed)
    surfaces = [SparseSurface(problem, layers, subset, inducing, seed) for layers in finalists]
    for surface in surfaces:
        surface.explore(exhaustive)
    trials = tuple(trial for surface in surfaces for trial in surface.trials)
    safe = {prior.name for surface in surfaces for prior in surface.priors if prior.safe}
    candidates = [prefer_short(s.trials, prefer_safe(s.trials, safe)) for s in surfaces]
    best = _compare(problem, candidates, safe, seed)
    others = [t for t in trials if (t.layers, t.prior) != (best.layers, best.prior)]
    return Choice(
        best,
        trials,
        tuple(screened),
        best_of(others) if others else None,
        (*_edges(problem, next(s for s in surfaces if best in s.trials), best), *prior_warnings(trials, best, safe)),
        sum(surface.factorisations for surface in surfaces),
    )


def _compare(problem: SparseProblem, candidates: Sequence[Trial], safe: Collection[str], seed: int) -> Trial:
    """The best of a few trials with other layers, each tried once more on more structures and in a larger basis."""
    if len(candidates) == 1:
        return candidates[0]
    subset, inducing = _size(problem, COMPARISON, seed)
    again = [SparseSurface(_only(problem, t), t.layers, subset, inducing, seed).trial(t.prior) for t in candidates]
    return candidates[again.index(prefer_safe(again, safe))]


def _only(problem: SparseProblem, trial: Trial) -> SparseProblem:
    """The same problem with nothing but the ridge left to choose."""
    grid = replace(
        problem.grid,
        length_scales=(trial.length_scale,),
        length_scale_fixed=True,
        species_weights=(trial.species_weight,),
    )
    return replace(problem, grid=grid, force_weights=(trial.force_weight or 0.0,), progress=None)


def _coarse(n: int) -> list[int]:
    """Every other length scale of eight, the ends and the middle of a longer axis, everything of a short one."""
    if n <= 2:
        return list(range(n))
    return list(range(1, n, 2)) if n <= FINE else sorted({0, n // 2, n - 1})


def _size(problem: SparseProblem, limits: tuple[int, int], seed: int) -> tuple[Int[Tensor, "chosen"], int]:
    """Structures and the number of inducing environments within the limits."""
    return _subset(len(problem.columns), limits[0], seed), min(problem.inducing, limits[1])


def _subset(n_structures: int, size: int, seed: int) -> Int[Tensor, "chosen"]:
    """All structures, or a random subset in ascending order."""
    if n_structures <= size:
        return torch.arange(n_structures)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_structures, generator=generator)[:size].sort().values


def _edges(problem: SparseProblem, surface: SparseSurface, best: Trial) -> list[str]:
    """Warnings when the best values lie where the range tried ends."""
    found = []
    if len(best.ridges) > 1 and best.best == len(best.ridges) - 1:
        found.append(
            f"the best ridge ({best.ridge:.1e}) is the largest tried: the data look like noise to these features"
        )
    scales = surface.scales
    ends = {scales[0], scales[-1]} & {best_of(surface.trials).length_scale}
    if len(scales) > 1 and best.length_scale in ends and problem.grid.kernel != "linear":
        found.append(
            f"the best length scale ({best.length_scale:.3g}) is on the edge of the range tried, "
            f"{scales[-1]:.3g} to {scales[0]:.3g}"
        )
    return found
