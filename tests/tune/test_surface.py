import math
from dataclasses import replace

import pytest
import torch

from mekrr.errors import MekrrError
from mekrr.kernels import Basis, GaussianKernel, StructureKernel, energy_noise
from mekrr.prior import LinearPrior
from mekrr.threads import threads
from mekrr.tune import (
    MEDIAN,
    OF_ENVIRONMENTS,
    OF_STRUCTURES,
    Grid,
    Point,
    Size,
    Surface,
    best_of,
    criterion_for,
    ridge_unit,
)
from oracles import dense, ridge_solution, total_energies
from support import random_environments
from synthetic import TRUE_W, energies_of, problem_of


def surface_of(problem, **changes):
    problem = replace(problem, grid=replace(problem.grid, **changes))
    everything = torch.arange(len(problem.columns))
    return Surface(problem, ("layer",), everything, problem.plan.search, 0)


def explored(problem, whole=False, **changes):
    surface = surface_of(problem, **changes)
    surface.explore(whole)
    return surface


@pytest.mark.parametrize("embedding", ["sum", "mean"])
def test_a_trial_is_the_textbook_leave_one_out(embedding):
    """From the dense kernel, with weights of structures in the noise and in the prior that is refitted."""
    x = random_environments([4, 5, 6, 3, 5, 2, 4], 4)
    y, weights = energies_of(x, 3.0), torch.linspace(0.3, 3.0, 7, dtype=torch.float64)
    ridges = (1e-3, 1e-1)
    fixed = {"length_scales": (2.0,), "length_scale_fixed": True, "species_weights": (0.3,), "ridges": ridges}
    grid = Grid(embedding=embedding, criterion="loo-mae", **fixed)
    problem = problem_of(OF_STRUCTURES, x, y, [None] * 7, grid, weights=weights)
    (trial,) = explored(problem).trials
    kernel = StructureKernel.weighted(GaussianKernel(2.0), 0.3, embedding)
    scale, n = total_energies(kernel, x), x.n_atoms.double()
    K = scale[:, None] * dense(x, x, kernel) * scale
    prior = LinearPrior.fit(n[:, None], y, weights.sqrt() / n)
    for r, ridge in enumerate(ridges):
        noise = energy_noise(n, embedding) / weights
        residuals = torch.zeros(7, dtype=torch.float64)
        for t in range(7):
            dual, G = ridge_solution(K, noise, y - n * prior.beta_without[t, 0], ridge)
            residuals[t] = dual[t] / torch.linalg.inv(G)[t, t]
        assert trial.loo_mae[r] == pytest.approx(1000 * float((residuals / n).abs().mean()), rel=1e-7)
        assert trial.loo_rmse[r] == pytest.approx(1000 * float((residuals / n).square().mean().sqrt()), rel=1e-7)
        assert trial.scores[r] == pytest.approx(-math.log(float((residuals.abs() / noise.sqrt()).mean())), rel=1e-7)
        left = y - n * prior.beta[0]
        dual, G = ridge_solution(K, noise, left, ridge)
        density = torch.distributions.MultivariateNormal(0 * y, (left @ dual / 7) * G).log_prob(left)
        assert trial.evidence[r] == pytest.approx(float(density), rel=1e-7)
    assert (trial.length_scale, trial.species_weight, trial.ridges) == (2.0, 0.3, ridges)
    assert (trial.force_weight, trial.loo_forces) == (None, ())


def test_trials_say_what_was_tried(of_environments):
    """Evaluated once each; errors in meV, from which the score follows."""
    one = {"length_scales": (4.0,), "length_scale_fixed": True, "species_weights": (0.5,), "force_weights": (1e-2,)}
    found = surface_of(of_environments, **one)
    found.explore()
    found.explore(whole=True)
    assert found.factorisations == 1
    assert [t.prior for t in found.trials] == ["none", "composition"]
    ridges = of_environments.grid.ridges
    for trial in found.trials:
        assert (trial.length_scale, trial.species_weight, trial.force_weight) == (4.0, 0.5, 1e-2)
        assert trial.evidence == ()
        assert trial.ridges == pytest.approx(ridges, abs=0.0)
        assert trial.score == max(trial.scores)
        assert trial.ridge == trial.ridges[trial.best]
        assert len(trial.scores) == len(trial.loo_mae) == len(trial.loo_forces) == len(ridges)
    # energies count by the root of n, the errors of a trial by n: equal where all structures are of one size
    same = [t for t, n in enumerate(found.n_atoms.tolist()) if n == 4]
    one = Surface(replace(of_environments, grid=found.grid), ("layer",), torch.tensor(same), Size(99, 40), 0)
    trial = one.trial("composition")
    score = -0.5 * math.log(trial.loo_mae[0] / 1000 * 4**0.5 * trial.loo_forces[0] / 1000)
    assert trial.scores[0] == pytest.approx(score)


@pytest.mark.parametrize("criterion", ["loo", "evidence"])
def test_coarse_to_fine_finds_the_optimum_of_the_whole_grid(of_structures, criterion):
    grid = {"criterion": criterion, "length_scales": of_structures.grid.length_scales[2:7]}
    quick, full = (explored(of_structures, whole, **grid) for whole in (False, True))
    found, best = best_of(quick.trials), best_of(full.trials)
    assert found.score == pytest.approx(best.score, abs=1e-3)
    assert quick.factorisations < 0.6 * full.factorisations
    assert best.score > min(t.score for t in full.trials) + 0.1  # where the grid is anything but flat


def test_every_value_of_a_short_axis_is_within_reach(of_environments):
    """Of six weights the coarse grid has three; the best of the others is found by its neighbours."""
    fixed = {"length_scales": (4.0 / 2,), "length_scale_fixed": False, "force_weights": (1e-2,)}
    short, whole = (explored(of_environments, each, **fixed) for each in (False, True))
    assert {t.species_weight for t in short.trials} > {0.2, 0.6, 1.0}
    assert best_of(short.trials).score == pytest.approx(best_of(whole.trials).score, abs=1e-9)


def test_trials_side_by_side_are_those_of_one_thread(of_environments):
    """In the same order, whatever is done first."""
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(explored(of_environments, length_scales=(4.0, 2.0), force_weights=(1e-3, 1e-2)))
    alone, beside = found
    assert alone.factorisations == beside.factorisations > 8
    for one, other in zip(alone.trials, beside.trials, strict=True):
        same = (one.length_scale, one.species_weight, one.force_weight, one.prior)
        assert same == (other.length_scale, other.species_weight, other.force_weight, other.prior)
        assert other.scores == pytest.approx(one.scores, abs=1e-9)
    assert beside.edges(best_of(beside.trials)) == alone.edges(best_of(alone.trials))


def test_an_optimum_on_the_edge_extends_the_ladder(of_structures):
    """All length scales of the grid are far too short; the ladder must grow towards the true one."""
    best = best_of(explored(of_structures, length_scales=(0.4, 0.4 / 2**0.5, 0.2)).trials)
    assert best.length_scale > 0.4 * 6**0.5
    steps = 2 * math.log2(best.length_scale / 6**0.5 / 0.4)
    assert steps == pytest.approx(round(steps), abs=1e-9)


def test_with_forces_the_ladder_ends_where_it_is_named(of_environments):
    surface = explored(of_environments, length_scales=(0.4, 0.4 / 2**0.5, 0.2))
    assert len(surface.scales) == 3


def test_new_length_scales_are_as_good_as_those_given(of_structures):
    """Rungs beyond either end have the designs of their scale."""
    short = explored(of_structures, length_scales=(0.4, 0.4 / 2**0.5), species_weights=(0.5,))
    assert min(short.scales) < 0
    for rung, scale in short.scales.items():
        alone = explored(of_structures, length_scales=(scale,), length_scale_fixed=True, species_weights=(0.5,))
        if Point(rung) in short._done:
            trial = short._done[Point(rung)][0]
            assert trial.length_scale == pytest.approx(scale)
            assert trial.score == pytest.approx(alone.trials[0].score, abs=1e-3)


def test_a_ladder_that_never_ends_is_said(of_structures):
    """Far too long even after all extensions."""
    surface = explored(of_structures, length_scales=(200.0, 200.0 / 2**0.5), species_weights=(0.5,))
    best = best_of(surface.trials)
    assert any("length scale" in words and "on the edge of the range tried" in words for words in surface.edges(best))
    inner = explored(of_structures, species_weights=(0.5,))
    assert inner.edges(best_of(inner.trials)) == []


def test_noise_asks_for_the_largest_ridge(of_structures):
    x = random_environments([4, 5, 6, 3, 5] * 8, 6)
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = Grid(ridges=(1e-6, 1e-5), species_weights=(0.5,))
    surface = explored(problem_of(OF_STRUCTURES, x, noise, [None] * 40, grid))
    words = surface.edges(best_of(surface.trials))
    assert any("the best ridge (1.0e-05) is the largest tried" in each for each in words)


def test_fixed_values_are_kept(of_structures):
    fixed = {"length_scales": (2.5,), "length_scale_fixed": True, "species_weights": (0.3,)}
    (trial,) = explored(of_structures, **fixed, ridges=(0.07,), ridge_fixed=True).trials
    assert (trial.length_scale, trial.species_weight, trial.ridge) == (2.5, 0.3, 0.07)


def test_no_trial_has_a_ridge_below_rounding(of_structures):
    ridges = tuple(10.0**power for power in range(-18, 1, 2))
    surface = explored(of_structures, ridges=ridges)
    for trial in surface.trials:
        pointwise = GaussianKernel(trial.length_scale)
        K = StructureKernel.weighted(pointwise, trial.species_weight).gram(surface.x)
        unit = ridge_unit(K, surface.n_atoms, "sum")
        assert unit == pytest.approx(float(K.diagonal().mean() / surface.n_atoms.mean()))
        smallest = OF_STRUCTURES.floor(surface.x, pointwise, "sum") * unit
        assert trial.ridges == tuple(ridge for ridge in ridges if ridge >= smallest)
        assert 1e-18 not in trial.ridges


def test_a_fixed_ridge_below_rounding_is_kept_and_said(of_structures):
    surface = explored(of_structures, ridges=(1e-18,), ridge_fixed=True, species_weights=(0.5,))
    best = best_of(surface.trials)
    assert best.ridge == 1e-18
    words = surface.edges(best)[0]
    assert "the ridge 1.0e-18 lies below the rounding of the kernel matrix" in words
    assert all(math.isfinite(error) for trial in surface.trials for error in trial.loo_mae)
    assert len([each for each in surface.edges(best) if "below the rounding" in each]) == 1
    large = explored(of_structures, ridges=(1e-3,), ridge_fixed=True, species_weights=(0.5,))
    assert not any("below the rounding" in each for each in large.edges(best_of(large.trials)))


def test_a_grid_below_rounding_is_refused(of_structures):
    with pytest.raises(MekrrError, match="no ridge of those tried stands above the rounding"):
        explored(of_structures, ridges=(1e-18, 1e-17))


def test_rows_of_environments_have_no_floor(of_environments):
    small = {"ridges": (1e-18, 1e-3), "length_scales": (2.0,), "species_weights": (0.6,), "force_weights": (1e-2,)}
    assert {trial.ridges for trial in explored(of_environments, **small).trials} == {(1e-18, 1e-3)}


def test_screening_gives_the_best_of_each_prior(of_environments):
    surface = surface_of(of_environments, force_weights=(1e-2,))
    found = surface.screen()
    assert [trial.prior for trial in found] == ["none", "composition"]
    for trial in found:
        assert trial.score == max(t.score for t in surface.trials if t.prior == trial.prior)
    assert {t.species_weight for t in surface.trials} == {0.2, 1.0}  # the ends of the coarse axis


def test_shorter_length_scales_are_tried_where_one_of_them_may_be_taken(of_environments):
    fixed = {"species_weights": (0.6,), "force_weights": (1e-2,)}
    further = replace(of_environments, plan=replace(OF_ENVIRONMENTS, extends=True))
    surface = explored(further, **fixed)
    shorter = {scale for scale in surface.scales.values() if scale < best_of(surface.trials).length_scale}
    assert len(shorter) > 1
    assert shorter <= {t.length_scale for t in surface.trials}


def test_the_basis_is_as_large_as_asked(of_environments):
    everything = torch.arange(32)
    for size, groups, expected in ((Size(99, 20), 40, 20), (Size(99, 60), 40, 40), (Size(99, 60), None, 60)):
        surface = Surface(replace(of_environments, groups=groups), ("layer",), everything, size, 0)
        assert surface.centres.n_structures == len(surface.centres.species) == expected
    assert OF_ENVIRONMENTS.search.groups == 400


@pytest.mark.parametrize("kernel", ["linear"])
def test_kernels_without_a_ladder_are_searched_too(of_environments, kernel):
    grid = {"kernel": kernel, "length_scales": (1.0, 0.5), "species_weights": (0.6,), "force_weights": (1e-2,)}
    assert {t.length_scale for t in explored(of_environments, **grid).trials} == {2.0, 1.0}


def test_without_derivatives_energies_alone_are_scored(of_environments):
    def energies_only(layers, chosen):
        return replace(of_environments.observe(layers, chosen), derivatives=[None] * len(chosen))

    alone = replace(of_environments, observe=energies_only)
    name = criterion_for("auto", False, False)
    one = {"species_weights": (0.6,), "length_scales": (2.0,), "force_weights": (0.0,), "criterion": name}
    best = best_of(explored(alone, **one).trials)
    assert best.force_weight is None
    assert best.loo_forces == ()
    assert len(best.evidence) == len(best.ridges)
    assert math.isfinite(best.score)


def test_strains_alone_leave_no_evidence(of_environments):
    """Stress labels without forces: a criterion of the evidence is refused in words."""

    def strains_only(layers, chosen):
        found = of_environments.observe(layers, chosen)
        return replace(found, derivatives=[replace(d, n_strains=len(d.dft)) for d in found.derivatives])

    alone = replace(of_environments, observe=strains_only)
    one = {"species_weights": (0.6,), "length_scales": (2.0,), "force_weights": (0.0,)}
    assert math.isfinite(best_of(explored(alone, **one, criterion="loo-mae").trials).score)
    with pytest.raises(ValueError, match="derivatives are fitted beside them"):
        explored(alone, **one, criterion="evidence")


def test_the_median_heuristic_measures_the_features(of_structures):
    """Features ten times as wide have a median distance ten times as long."""
    grid = {"length_scales": MEDIAN, "length_scale_fixed": True, "species_weights": (0.5,)}

    def wide(layers, chosen):
        found = of_structures.observe(layers, chosen)
        x = found.environments
        return replace(found, environments=x.with_features(10 * x.features))

    narrow, broad = (
        explored(problem, **grid).trials[0].length_scale
        for problem in (of_structures, replace(of_structures, observe=wide))
    )
    x = of_structures.observe(("layer",), torch.arange(40)).environments
    assert narrow == pytest.approx(float(torch.pdist(x.features).median()))
    assert broad == pytest.approx(10 * narrow)


def prediction(K, train, test, y, n, ridge):
    """Of ridge regression with the mean energy per atom as its prior, for structures kept out."""
    mean = float((y[train] / n[train]).mean())
    dual, _ = ridge_solution(K[train][:, train], n[train], y[train] - n[train] * mean, ridge)
    return K[test][:, train] @ dual + n[test] * mean


def test_trap_of_rounding(monkeypatch):
    """Uncentred features and float32 tiles: training and test matrix do not share their rounding.

    Over all ridges, leave-one-out on the matrix as it is chooses one below its rounding and promises a fraction of the
    test error. The ridges that the surface offers stand above the rounding, and there the promise is kept.
    """
    x = random_environments([20] * 160, 16, species=(29,))
    x = x.with_features(0.05 * x.features + 20.0)
    n, kernel = x.n_atoms.double(), StructureKernel.weighted(GaussianKernel(16.0), 0.0)
    values, vectors = torch.linalg.eigh(kernel.gram(x))
    draw = torch.randn(160, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = vectors @ (values.clamp_min(0).sqrt() * draw)
    y = (y - y.mean()) / y.std()
    train, test = torch.arange(80), torch.arange(80, 160)
    monkeypatch.setattr("mekrr.kernels.tiles.FLOAT64_PAIRS", 0)
    rows, cross = kernel.gram(x[train]), kernel.gram(x[test], x[train])

    unit, size = ridge_unit(rows, n[train], "sum"), 20
    mean = y[train].mean() / size
    values, vectors = torch.linalg.eigh(rows)
    K = (vectors * values.clamp_min(0)) @ vectors.T

    def promised_and_true(ridge):
        dual, G = ridge_solution(K, n[train], y[train] - n[train] * mean, ridge)
        loo = dual / torch.linalg.inv(G).diagonal()
        error = cross @ dual + n[test] * mean - y[test]
        return float(loo.square().mean().sqrt()), float(error.square().mean().sqrt())

    ridges = tuple(unit * ridge for ridge in OF_STRUCTURES.ridges)
    promised, true = min(promised_and_true(ridge) for ridge in ridges)
    assert true > 2 * promised
    grid = Grid(length_scales=(16.0,), length_scale_fixed=True, species_weights=(0.0,), ridges=ridges, criterion="loo")
    surface = explored(problem_of(OF_STRUCTURES, x[train], y[train], [None] * 80, grid))
    (trial,) = surface.trials
    assert trial.ridges[0] > 1e-7 * unit
    basis = Basis.of(surface.x, kernel, relative=OF_STRUCTURES.jitter)
    psi = basis.whiten(rows)
    G = psi @ psi.T + trial.ridge * torch.diag(n[train])
    whitened = psi.T @ torch.linalg.solve(G, y[train] - n[train] * mean)
    error = cross @ basis.coefficients(whitened) + n[test] * mean - y[test]
    kept_promise, kept_true = trial.loo_rmse[trial.best] * size / 1000, float(error.square().mean().sqrt())
    assert kept_true < 1.2 * kept_promise
    assert kept_true < 0.7 * true


def test_trap_of_violent_structures():
    """Four structures far from all others have energies no fit without them can predict.

    Their squared residuals outweigh the other 36 together, so the squared error chooses for them; the density of the
    Student t chooses a length scale and ridge that serve the structures one would test on.
    """
    x = random_environments([4, 5, 6, 3, 5] * 20, 6)
    y = energies_of(x, 3.0)
    features = x.features.clone()
    features[x.structure >= 96] *= 4.0
    x = x.with_features(features)
    y[96:] += torch.tensor([60.0, -90.0, 120.0, -70.0], dtype=torch.float64)
    train, test, n = torch.cat([torch.arange(36), torch.arange(96, 100)]), torch.arange(36, 96), x.n_atoms.double()
    scales, ridges = (24.0, 12.0, 6.0, 3.0, 2.0, 1.0, 0.5), tuple(10.0 ** (-8 + step / 2) for step in range(21))
    grams = {scale: StructureKernel.weighted(GaussianKernel(scale), TRUE_W).gram(x) for scale in scales}

    def error(scale, ridge):
        return float((prediction(grams[scale], train, test, y, n, ridge) - y[test]).square().mean().sqrt())

    def chosen(criterion):
        grid = Grid(
            length_scales=scales, length_scale_fixed=True, species_weights=(TRUE_W,), ridges=ridges, criterion=criterion
        )
        best = best_of(explored(problem_of(OF_STRUCTURES, x[train], y[train], [None] * 40, grid), whole=True).trials)
        return error(best.length_scale, best.ridge)

    smallest = min(error(scale, ridge) for scale in scales for ridge in ridges)
    robust, squared = chosen("loo"), chosen("loo-rmse")
    assert robust < 1.25 * smallest
    assert squared > 1.3 * robust
