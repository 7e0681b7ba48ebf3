import math
from dataclasses import replace

import pytest
import torch

from mekrr.features import Derivatives
from mekrr.prior import PriorColumns
from mekrr.tune import OF_ENVIRONMENTS, OF_STRUCTURES, Grid, Observed, Size, best_of, search
from support import random_environments
from synthetic import energies_of, fields_of, problem_of


def test_truth_is_found_from_energies(of_structures):
    choice = search(of_structures, 0)
    assert 1.0 < choice.best.length_scale < 9.0  # drawn with 3
    assert 0.3 <= choice.best.species_weight <= 0.9  # 0.6
    assert choice.best == best_of(choice.trials)
    assert (choice.screening, choice.warnings, choice.runner_up) == ((), (), None)


def test_truth_is_found_from_derivatives(of_environments):
    choice = search(of_environments, 0)
    assert choice.best.species_weight in (0.4, 0.6, 0.8)  # 0.6
    assert 2.0 <= choice.best.length_scale <= 8.0  # drawn with 4
    assert choice.runner_up is not None
    assert choice.runner_up.prior != choice.best.prior
    assert choice.runner_up.score == max(t.score for t in choice.trials if t.prior != choice.best.prior)


@pytest.mark.parametrize("plan", ["of_structures", "of_environments"])
def test_coarse_to_fine_equals_the_whole_grid(plan, request):
    problem = request.getfixturevalue(plan)
    quick, whole = search(problem, 0), search(problem, 0, whole=True)
    assert best_of(quick.trials).score == pytest.approx(best_of(whole.trials).score, abs=1e-3)
    assert quick.best.score == pytest.approx(whole.best.score, abs=1e-3)
    assert quick.factorisations < 0.7 * whole.factorisations
    assert whole.factorisations >= math.prod(
        map(len, (problem.grid.length_scales, problem.grid.species_weights, problem.grid.force_weights))
    )


def test_single_values_are_kept(quick):
    grid = replace(quick.grid, length_scales=(3.3,), length_scale_fixed=True, species_weights=(0.25,), ridges=(1e-3,))
    choice = search(replace(quick, grid=replace(grid, force_weights=(0.05,)), priors=lambda c: quick.priors(c)[1:]), 0)
    best = choice.best
    assert (best.prior, best.length_scale, best.species_weight) == ("composition", 3.3, 0.25)
    assert (best.ridge, best.force_weight) == (pytest.approx(1e-3), 0.05)
    assert (choice.runner_up, choice.factorisations, choice.warnings) == (None, 1, ())


# Layers: features that know the labels, and features that know nothing.


def nonsense(x):
    return x.with_features(
        torch.randn(x.features.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    )


def layered(problem, sets, informative):
    """Layer sets of which those for which `informative(layers, number of structures)` know the labels."""

    def observe(layers, chosen):
        found = problem.observe(layers, chosen)
        if informative(layers, len(chosen)):
            return found
        return Observed(nonsense(found.environments), found.derivatives)

    return replace(problem, observe=observe, layer_sets=sets)


def test_few_structures_are_searched_without_screening(of_structures):
    sets = [("bad",), ("good",), ("worse",)]
    problem = layered(of_structures, sets, lambda layers, _: layers == ("good",))
    problem = replace(problem, grid=replace(problem.grid, species_weights=(0.6,)))
    full = search(problem, 0)
    assert full.screening == ()
    assert {trial.layers for trial in full.trials} == set(sets)
    screened = search(replace(problem, plan=replace(OF_STRUCTURES, screening=Size(32), screen_from=40)), 0)
    assert full.best.layers == screened.best.layers == ("good",)
    assert full.runner_up.layers != ("good",)
    assert [t.layers for t in screened.screening].count(("good",)) == 1
    assert len(screened.screening) == 3
    scores = [t.score for t in screened.screening]
    assert scores == sorted(scores, reverse=True)
    assert {t.layers for t in screened.trials} == {screened.screening[0].layers, ("bad",)}  # the first of the largest


@pytest.mark.parametrize("informative", [("one",), ("one", "two", "three")])
def test_finalists_are_the_best_of_the_screening_and_the_largest_set(quick, informative):
    sets = [("one",), ("one", "two"), ("one", "two", "three")]
    choice = search(layered(quick, sets, lambda layers, _: layers == informative), 0)
    assert choice.screening[0].layers == choice.best.layers == informative
    assert {trial.layers for trial in choice.trials} == {informative, sets[-1]}
    assert choice.best in choice.trials
    assert len(choice.screening) == 6


def test_finalists_are_compared_in_the_larger_basis(quick):
    """Features that look good on half of the structures only lose to those that are good on all."""
    small = replace(OF_ENVIRONMENTS, screening=Size(16, 20), search=Size(16, 20))

    def informative(layers, n):
        return layers == (("few",) if n == 16 else ("all", "layers"))

    problem = layered(replace(quick, plan=small), [("few",), ("all", "layers")], informative)
    choice = search(problem, 0)
    assert best_of(choice.trials).layers == ("few",)
    assert choice.best.layers == ("all", "layers")
    uncompared = search(replace(problem, plan=replace(small, comparison=None)), 0)
    assert uncompared.best.layers == ("few",)


def test_a_search_on_a_subset_depends_on_the_seed_alone(quick):
    small = replace(quick, plan=replace(OF_ENVIRONMENTS, search=Size(12, 20)))
    first, same, other = (search(small, seed).best for seed in (1, 1, 2))
    assert first == same
    assert first.scores != other.scores


def test_the_edges_of_the_chosen_surface_are_said(quick):
    noisy = replace(quick.grid, length_scales=(4.0,), length_scale_fixed=True, ridges=(1e-9, 1e-8))
    choice = search(replace(quick, grid=noisy), 0)
    assert any("largest tried" in words for words in choice.warnings)


# What is preferred where leave-one-out hardly tells.


def test_the_shortest_of_near_equals_is_taken(of_environments):
    grid = replace(of_environments.grid, species_weights=(0.6,), force_weights=(1e-2,))
    problem = replace(of_environments, grid=grid, plan=replace(OF_ENVIRONMENTS, extends=True, short_margin=1e-9))
    optimum = search(problem, 0).best
    alike = [t for t in search(problem, 0).trials if t.prior == optimum.prior]
    shorter = [t for t in alike if t.length_scale < optimum.length_scale]
    margin = optimum.score - best_of(shorter).score + 1e-6  # just wide enough for another one
    choice = search(replace(problem, plan=replace(OF_ENVIRONMENTS, extends=True, short_margin=margin)), 0)
    assert best_of(choice.trials) == optimum
    assert choice.best == best_of(shorter)
    exact = search(replace(problem, plan=replace(OF_ENVIRONMENTS, extends=True, short_margin=0.0)), 0)
    assert exact.best == best_of(exact.trials) == optimum


def two_priors(problem, factor, safe):
    """Two priors under which the kernel is asked for y and for a little more: which of them is called safe decides."""

    def priors(chosen):
        (prior,) = problem.priors(chosen)
        larger = PriorColumns("backbone", factor * prior.coefficients, factor * prior.without, safe)
        return [replace(prior, name="none"), larger]

    return replace(problem, priors=priors)


@pytest.mark.parametrize("sets", [[("a",)], [("a",), ("b",)]], ids=len)
def test_the_safer_of_near_equals_is_taken(of_structures, sets):
    problem = replace(of_structures, layer_sets=sets, grid=replace(of_structures.grid, species_weights=(0.5,)))
    assert search(two_priors(problem, 1.1, safe=False), 0).best.prior == "none"
    near = search(two_priors(problem, 1.1, safe=True), 0)
    assert (near.best.prior, near.warnings) == ("backbone", ())
    clear = search(two_priors(problem, 1.3, safe=True), 0)
    assert clear.best.prior == "none"
    assert any("errors near the data are 30% larger" in words for words in clear.warnings)


@pytest.fixture(scope="module")
def of_two_layers():
    """Two sets of features, each of which knows the labels of one prior; those of the safe prior are 10% larger."""
    first = random_environments([4, 5, 6, 3, 5] * 8, 6)
    second = nonsense(first)
    y, other = energies_of(first, 3.0), 1.1 * energies_of(second, 3.0)
    grid = Grid(length_scales=(2.0, 2.0**0.5, 1.0), species_weights=(0.6,))
    problem = problem_of(OF_STRUCTURES, first, y, [None] * 40, grid)
    columns = problem.columns.clone()
    columns[:, 1] = other

    def priors(chosen):
        found = []
        for name, column in (("none", 0), ("backbone", 1)):
            coefficients = torch.zeros(columns.shape[1], dtype=torch.float64)
            coefficients[column] = 1.0
            found.append(PriorColumns(name, coefficients, coefficients.expand(len(chosen), -1), column == 1))
        return found

    def observe(layers, chosen):
        return Observed((second if layers == ("second",) else first)[chosen], [None] * len(chosen))

    sets = [("second",), ("first",), ("first", "again")]
    return replace(problem, columns=columns, priors=priors, observe=observe, layer_sets=sets)


def test_the_safer_of_near_equals_passes_the_screening(of_two_layers):
    plan = replace(OF_STRUCTURES, screening=Size(40), screen_from=1)
    choice = search(replace(of_two_layers, plan=plan), 0)
    first = choice.screening[0]
    assert first.prior == "none"  # by its score alone
    assert first.layers != ("second",)
    assert {t.layers for t in choice.trials} == {("second",), ("first", "again")}
    assert (choice.best.layers, choice.best.prior) == (("second",), "backbone")


@pytest.mark.parametrize("comparison", [None, Size(40)])
def test_the_safer_of_near_equals_wins_the_comparison(of_two_layers, comparison):
    plan = replace(OF_STRUCTURES, comparison=comparison)
    choice = search(replace(of_two_layers, plan=plan), 0)
    assert best_of(choice.trials).prior == "none"
    assert (choice.best.layers, choice.best.prior) == (("second",), "backbone")
    assert choice.runner_up.prior == "none"


def test_progress_is_reported(quick):
    calls = []
    search(replace(quick, progress=lambda *now: calls.append(now)), 0)
    assert calls[-1] == (32, 32)


def test_stress_alone_and_mixed_labels_are_searched(quick):
    """Structures with forces, with strains, with both and with energies alone in one set."""
    x, (energies, derivatives) = random_environments([4, 5, 6, 3] * 4, 4), (None, None)
    energies, derivatives = fields_of(x, 4.0, n_rows=8)
    kinds = [6, 8, 0]
    mixed = [
        None if t % 4 == 3 else Derivatives(d.features, d.dft, d.own, kinds[t % 4]) for t, d in enumerate(derivatives)
    ]
    grid = replace(quick.grid, length_scales=(4.0,), length_scale_fixed=True)
    best = search(problem_of(OF_ENVIRONMENTS, x, energies, mixed, grid, 30), 0).best
    assert math.isfinite(best.score)
    assert best.force_weight == 1e-2
    assert all(math.isfinite(error) for error in best.loo_forces)


def with_tangent(problem, informative, shares):
    """Rows of a tangent kernel that know the labels, by so much more than noise, or nothing."""

    def observe(layers, chosen):
        found = problem.observe(layers, chosen)
        derivatives = []
        for t, d in zip(chosen.tolist(), found.derivatives, strict=True):
            rows = torch.cat([problem.columns[t, :1], d.dft]) if d is not None else problem.columns[t, :1]
            noise = torch.randn(len(rows), 1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
            if informative:
                noise[:, 0, 0] = informative * rows
            derivatives.append(replace(d, tangent=noise.float()))
        return Observed(found.environments, derivatives)

    return replace(problem, observe=observe, grid=replace(problem.grid, tangent_shares=shares))


@pytest.mark.parametrize("structures", [6, 1000])
def test_a_tangent_kernel_is_taken_where_it_knows_more(of_environments, structures):
    plan = replace(of_environments.plan, mixing=Size(structures, 40))
    problem = replace(of_environments, plan=plan)
    knowing = search(with_tangent(problem, 100.0, (0.0, 0.3, 0.9)), 0)
    ignorant = search(with_tangent(problem, 0.0, (0.0, 0.3, 0.9)), 0)
    assert knowing.best.tangent_share > 0.0
    assert knowing.best.score > ignorant.best.score
    assert ignorant.best.tangent_share == 0.0
    assert {trial.tangent_share for trial in knowing.mixing} >= {0.0, 0.3}
    assert {trial.tangent_share for trial in knowing.trials} == {0.0}


def test_beside_a_tangent_kernel_the_shortest_reach_within_the_margin_is_taken(of_environments):
    """On every axis the next value was tried, and cost more than the margin."""
    scales = tuple(8.0 / 2 ** (rung / 2) for rung in range(7))
    grid = replace(of_environments.grid, length_scales=scales, force_weights=(1e-2,))
    plan = replace(of_environments.plan, mixing=Size(1000, 40))
    problem = with_tangent(replace(of_environments, plan=plan, grid=grid), 1e5, (0.0, 0.3, 0.9))
    eager = search(replace(problem, plan=replace(plan, near_margin=0.0)), 0)
    choice = search(replace(problem, plan=replace(plan, near_margin=1.3)), 0)
    best = choice.best
    assert best.score > eager.best.score - 1.3
    assert best.species_weight > eager.best.species_weight
    assert best.tangent_share == 0.9
    alike = [trial for trial in choice.mixing if trial.prior == best.prior]
    limit = max(t.score for t in alike) - 1.3

    def tried(**axes):
        return [t for t in alike if all(getattr(t, name) == value for name, value in axes.items())]

    here = {"species_weight": best.species_weight, "tangent_share": 0.9}
    larger = min(w for w in grid.species_weights if w > best.species_weight)
    shorter = [t for t in tried(**here) if t.length_scale < best.length_scale]
    assert shorter
    assert tried(species_weight=larger)
    assert all(t.score <= limit for t in [*shorter, *tried(species_weight=larger, tangent_share=0.3)])


def test_force_weights_from_end_to_end_are_tried_beside_a_tangent_kernel(of_environments):
    """The best one without it may lie in another valley: 16 frames of formate missed a tenth of the error so."""
    weights = tuple(10.0 ** (-5 + 0.5 * step) for step in range(11))
    plan = replace(of_environments.plan, mixing=Size(6, 40))
    problem = replace(of_environments, plan=plan, grid=replace(of_environments.grid, force_weights=weights))
    choice = search(with_tangent(problem, 0.0, (0.0, 0.3, 0.9)), 0)
    assert {t.force_weight for t in choice.mixing if t.tangent_share == 0.3} >= {weights[0], weights[5], weights[-1]}


def test_a_share_by_the_user_is_kept(of_environments):
    plan = replace(of_environments.plan, mixing=Size(6, 40))
    choice = search(with_tangent(replace(of_environments, plan=plan), 0.0, (0.3,)), 0)
    assert choice.best.tangent_share == 0.3
