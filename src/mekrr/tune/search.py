"""Choosing layers, prior, length scale, species weight and ridge by leave-one-out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.features import Environments
from mekrr.kernels.tiles import Progress
from mekrr.tune.problem import FeatureCandidate, Grid, PriorCandidate, Trial, best_of
from mekrr.tune.safety import prefer_safe, prior_warnings
from mekrr.tune.surface import Surface
from mekrr.typing import Float, Int, Tensor

SCREENING_STRUCTURES = 150
SEARCH_STRUCTURES = 1500
FINALISTS = 2  # layer sets searched in full, each with all priors: a prior costs no further kernel

MakePriors = Callable[[Int[Tensor, "chosen"]], Sequence[PriorCandidate]]
MakeFeatures = Callable[[tuple[str, ...], Int[Tensor, "chosen"]], Environments]


@dataclass(frozen=True)
class Choice:
    """What was chosen, with everything that was tried.

    Attributes:
        best: on the structures of the search.
        trials: the whole surface, for the report.
        screening: best trial of each choice of layers and prior on the screening subset.
        runner_up: the best trial with another prior or other layers.
        warnings: edges of the grid and the like.
        factorisations: number of eigendecompositions made.
    """

    best: Trial
    trials: tuple[Trial, ...]
    screening: tuple[Trial, ...]
    runner_up: Trial | None
    warnings: tuple[str, ...]
    factorisations: int


@dataclass(frozen=True)
class SearchProblem:
    """Everything the search needs, for any subset of the training structures.

    Attributes:
        layer_sets: choices of layers.
        features: standardised environments of a layer set for chosen structures.
        priors: prior candidates for chosen structures.
        noise: n_t / weight_t (sum) or 1 / weight_t (mean).
        n_atoms: of each structure, float64.
        grid: values to choose from.
        progress: of the Gram passes.
    """

    layer_sets: Sequence[tuple[str, ...]]
    features: MakeFeatures
    priors: MakePriors
    noise: Float[Tensor, "structures"]
    n_atoms: Float[Tensor, "structures"]
    grid: Grid
    progress: Progress | None = None

    def surface(self, layers: tuple[str, ...], chosen: Int[Tensor, "chosen"]) -> Surface:
        """The surface of one layer set over chosen structures."""
        features = FeatureCandidate(layers, self.features(layers, chosen))
        return Surface(
            features, self.priors(chosen), self.noise[chosen], self.n_atoms[chosen], self.grid, self.progress
        )


def search(problem: SearchProblem, seed: int, exhaustive: bool = False) -> Choice:
    """Screen layer sets and priors on a subset where there is a choice, then search the best of them in full.

    With so few structures that a subset would save no time, every layer set is searched in full.

    Args:
        problem: candidates and values.
        seed: of the subsets.
        exhaustive: evaluate whole grids instead of coarse to fine.
    """
    N = len(problem.noise)
    everything = _subset(N, SEARCH_STRUCTURES, seed)
    screened: list[Trial] = []
    if len(problem.layer_sets) > 1 and 2 * SCREENING_STRUCTURES <= N:
        screened = _screen(problem, _subset(N, SCREENING_STRUCTURES, seed))
    finalists = _finalists(screened, problem.priors(everything)) or problem.layer_sets
    surfaces = [problem.surface(layers, everything) for layers in finalists]
    for surface in surfaces:
        surface.explore(exhaustive)
    trials = tuple(trial for surface in surfaces for trial in surface.trials)
    safe, measure = surfaces[0].safe, surfaces[0].measure
    best = prefer_safe(trials, safe, measure)
    others = [t for t in trials if (t.layers, t.prior) != (best.layers, best.prior)]
    return Choice(
        best,
        trials,
        tuple(screened),
        best_of(others) if others else None,
        (
            *dict.fromkeys(w for s in surfaces if best in s.trials for w in s.warnings),
            *prior_warnings(trials, best, safe, measure),
        ),
        sum(surface.factorisations for surface in surfaces),
    )


def _finalists(screened: Sequence[Trial], priors: Sequence[PriorCandidate]) -> list[tuple[str, ...]]:
    """Layers to search in full: those of the best trial, of the best with a safe prior, and of the runners-up."""
    safe = {prior.name for prior in priors if prior.safe}
    first = [trial for trial in screened if trial.prior in safe][:1]
    return list(dict.fromkeys(trial.layers for trial in (*screened[:1], *first, *screened)))[:FINALISTS]


def _screen(problem: SearchProblem, chosen: Int[Tensor, "chosen"]) -> list[Trial]:
    """The best trial of each (layers, prior) on a subset, over a coarse grid."""
    weights = problem.grid.species_weights
    coarse = tuple(weights[i] for i in sorted({0, len(weights) // 2, len(weights) - 1}))
    screening = replace(problem, grid=replace(problem.grid, species_weights=coarse))
    best: list[Trial] = []
    for layers in problem.layer_sets:
        surface = screening.surface(layers, chosen)
        surface.explore()
        best += [best_of([t for t in surface.trials if t.prior == prior.name]) for prior in surface.priors]
    return sorted(best, key=lambda trial: -trial.score)


def _subset(n_structures: int, size: int, seed: int) -> Int[Tensor, "chosen"]:
    """All structures, or a random subset in ascending order."""
    if n_structures <= size:
        return torch.arange(n_structures)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_structures, generator=generator)[:size].sort().values
