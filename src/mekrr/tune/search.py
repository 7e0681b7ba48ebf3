"""Choosing layers, prior, length scale, species weight, force weight and ridge by leave-one-out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.tune.problem import RIDGES_WITH_TANGENT, SearchProblem, Size
from mekrr.tune.safety import prefer_near, prefer_safe, prefer_short, prior_warnings
from mekrr.tune.surface import Surface
from mekrr.tune.trial import Trial, best_of
from mekrr.typing import Int, Tensor


@dataclass(frozen=True)
class Choice:
    """What was chosen, with everything that was tried.

    Attributes:
        best: on the structures of the search.
        trials: the whole surface, for the report, without the tangent kernel.
        mixing: trials of its share, on fewer structures.
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
    mixing: tuple[Trial, ...] = ()


def search(problem: SearchProblem, seed: int, whole: bool = False) -> Choice:
    """Screen layers on a subset where that saves time, then search the finalists.

    Finalists are the layers of the best screened trial and the set of all layers: small subsets favour few features.

    Args:
        problem: candidates and values.
        seed: of the subsets and the inducing environments.
        whole: evaluate whole grids instead of coarse to fine.
    """
    plan, n = problem.plan, len(problem.columns)
    screened: list[Trial] = []
    if len(problem.layer_sets) > 1 and n >= plan.screen_from:
        screened = _screen(problem, seed)
    safe = {prior.name for prior in problem.priors(torch.arange(n)) if prior.safe}
    surfaces = [_surface(_plain(problem), layers, plan.search, seed) for layers in _finalists(problem, screened, safe)]
    for surface in surfaces:
        surface.explore(whole)
    trials = tuple(trial for surface in surfaces for trial in surface.trials)
    candidates = [prefer_short(s.trials, prefer_safe(s.trials, safe), plan.short_margin) for s in surfaces]
    best = _compare(problem, candidates, safe, seed)
    others = [t for t in trials if (t.layers, t.prior) != (best.layers, best.prior)]
    chosen = next(surface for surface in surfaces if best in surface.trials)
    warned = chosen.edges(best)
    mixing: tuple[Trial, ...] = ()
    if plan.mixing is not None and problem.grid.tangent_shares != (0.0,):
        tried = {t.length_scale for t in trials if t.layers == best.layers and t.length_scale <= best.length_scale}
        mixed = _mixed(problem, best, sorted(tried, reverse=True), plan.mixing, safe, seed)
        surfaces.append(mixed)
        mixing = tuple(mixed.trials)
        beside = prefer_near(mixing, prefer_safe(mixing, safe), plan.near_margin)
        best = _better(problem, best, beside, seed)
    return Choice(
        best,
        trials,
        tuple(screened),
        best_of(others) if others else None,
        (*warned, *prior_warnings(mixing or trials, best, safe)),
        sum(surface.factorisations for surface in surfaces),
        mixing,
    )


def _screen(problem: SearchProblem, seed: int) -> list[Trial]:
    """The best trial of each (layers, prior) on a subset, over a coarse grid, best first."""
    found: list[Trial] = []
    for layers in problem.layer_sets:
        found += _surface(_plain(problem), layers, problem.plan.screening, seed).screen()
    return sorted(found, key=lambda trial: -trial.score)


def _finalists(problem: SearchProblem, screened: Sequence[Trial], safe: Collection[str]) -> Sequence[tuple[str, ...]]:
    """Layers to search in full: everything where nothing was screened."""
    if not screened:
        return problem.layer_sets
    return list(dict.fromkeys((prefer_safe(screened, safe).layers, max(problem.layer_sets, key=len))))


def _compare(problem: SearchProblem, candidates: Sequence[Trial], safe: Collection[str], seed: int) -> Trial:
    """The best of a few trials with other layers, each tried once more in a basis as large as the solution's."""
    comparison = problem.plan.comparison
    if len(candidates) == 1:
        return candidates[0]
    if comparison is None:
        return prefer_safe(candidates, safe)
    again = [_surface(_only(problem, t), t.layers, comparison, seed).trial(t.prior) for t in candidates]
    return candidates[again.index(prefer_safe(again, safe))]


def _mixed(
    problem: SearchProblem, best: Trial, scales: Sequence[float], size: Size, safe: Collection[str], seed: int
) -> Surface:
    """The share of the tangent kernel, with the weights that go with it, and length scales from `best`'s downwards.

    On a few structures, all of whose rows are the tangent kernel's basis: fewer rows than data would make it look
    worse than it is.
    """
    here = _lower_ridges(problem)
    grid = replace(here.grid, length_scales=tuple(scales), length_scale_fixed=True)
    surface = _surface(replace(here, grid=grid, progress=None), best.layers, size, seed)
    surface.mix(best)
    surface.draw_in(prefer_safe(surface.trials, safe).prior, problem.plan.near_margin)
    return surface


def _better(problem: SearchProblem, plain: Trial, mixed: Trial, seed: int) -> Trial:
    """The one with the tangent kernel unless it is worse where there are more structures than it was chosen on.

    Worse by more than the margin that a short reach may cost: far from the data it is the safer one.
    """
    comparison, mixing = problem.plan.comparison, problem.plan.mixing
    if mixed.tangent_share == 0.0:
        return plain
    given = len(problem.grid.tangent_shares) == 1
    if given or comparison is None or mixing is None or len(problem.columns) <= mixing.structures:
        return mixed
    scores = []
    for trial in (plain, mixed):
        here = _lower_ridges(_only(problem, trial))
        here = replace(here, grid=replace(here.grid, tangent_shares=(trial.tangent_share,)))
        scores.append(_surface(here, trial.layers, comparison, seed).trial(trial.prior).score)
    return plain if scores[0] > scores[1] + problem.plan.near_margin else mixed


def _lower_ridges(problem: SearchProblem) -> SearchProblem:
    """With those that the tangent kernel may want, unless the ridge is the user's."""
    grid = problem.grid
    return problem if grid.ridge_fixed else replace(problem, grid=replace(grid, ridges=RIDGES_WITH_TANGENT))


def _at_scale(problem: SearchProblem, trial: Trial) -> SearchProblem:
    grid = replace(problem.grid, length_scales=(trial.length_scale,), length_scale_fixed=True)
    return replace(problem, grid=grid)


def _only(problem: SearchProblem, trial: Trial) -> SearchProblem:
    """The same problem with nothing but the ridge left to choose."""
    grid = replace(
        _at_scale(problem, trial).grid,
        species_weights=(trial.species_weight,),
        force_weights=(trial.force_weight or 0.0,),
        tangent_shares=(0.0,),
    )
    return replace(problem, grid=grid, progress=None)


def _plain(problem: SearchProblem) -> SearchProblem:
    """The same problem without the tangent kernel."""
    return replace(problem, grid=replace(problem.grid, tangent_shares=(0.0,)))


def _surface(problem: SearchProblem, layers: tuple[str, ...], size: Size, seed: int) -> Surface:
    return Surface(problem, layers, _subset(len(problem.columns), size.structures, seed), size, seed)


def _subset(n_structures: int, size: int, seed: int) -> Int[Tensor, "chosen"]:
    """All structures, or a random subset in ascending order."""
    if n_structures <= size:
        return torch.arange(n_structures)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_structures, generator=generator)[:size].sort().values
