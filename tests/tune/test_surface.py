import math
from importlib import import_module

import pytest
import torch

from mekrr.kernels import GaussianKernel, gram
from mekrr.solve import LinearPrior, RidgeFactor, leave_one_out
from mekrr.tune import MEDIAN, FeatureCandidate, Grid, PriorCandidate, SearchProblem, Surface, best_of, search
from mekrr.tune.criteria import CRITERIA
from support import random_environments


def function_of(x, length_scale, seed=5):
    """Energies drawn from the kernel itself, so that the true hyperparameters are known."""
    K = gram(x, None, GaussianKernel(length_scale), "sum").mix(0, 0.6)
    values, vectors = torch.linalg.eigh(K)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(len(K), generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.randn(len(K), generator=generator, dtype=torch.float64)
    return vectors @ (values.clamp_min(0).sqrt() * draw) + noise


@pytest.fixture(scope="module")
def problem():
    x = random_environments([4, 5, 6, 3, 5] * 8, 6)
    n = x.n_atoms.double()
    y = function_of(x, 3.0)
    linear = LinearPrior.fit(n[:, None], y, 1 / n)
    return x, y, n, PriorCandidate("none", y, linear)


def surface_of(problem, grid):
    x, _, n, prior = problem
    return Surface(FeatureCandidate(("layer",), x), [prior], n, n, grid)


@pytest.mark.parametrize("criterion", ["loo+evidence", "loo", "loo-gaussian", "evidence"])
def test_coarse_to_fine_finds_the_optimum_of_the_full_grid(problem, criterion):
    grid = Grid(criterion=criterion)
    quick, full = surface_of(problem, grid), surface_of(problem, grid)
    found, best = quick.explore(), full.explore(exhaustive=True)
    assert found.score == pytest.approx(best.score, abs=1e-3)
    assert quick.factorisations < 0.6 * full.factorisations


def test_the_chosen_length_scale_is_near_the_true_one(problem):
    assert 1.0 < surface_of(problem, Grid(criterion="evidence")).explore().length_scale < 9.0


def test_an_optimum_on_the_edge_extends_the_ladder(problem):
    """All length scales of the grid are far too short; the ladder must grow towards the true one."""
    grid = Grid(length_scales=(0.4, 0.4 / 2**0.5, 0.2))
    surface = surface_of(problem, grid)
    best = surface.explore()
    assert best.length_scale > 0.4 * 6**0.5
    steps = 2 * math.log2(best.length_scale / 6**0.5 / 0.4)
    assert steps == pytest.approx(round(steps), abs=1e-9)


def test_an_optimum_that_stays_on_the_edge_warns(problem):
    x, _, n, _ = problem
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = LinearPrior.fit(n[:, None], noise, 1 / n)
    surface = Surface(
        FeatureCandidate(("layer",), x), [PriorCandidate("none", noise, linear)], n, n, Grid(ridges=(1e-6, 1e-5))
    )
    surface.explore()
    assert any("largest tried" in message for message in surface.warnings)


def test_fixed_values_are_kept(problem):
    grid = Grid(length_scales=(2.5,), length_scale_fixed=True, species_weights=(0.3,), ridges=(0.07,), ridge_fixed=True)
    best = surface_of(problem, grid).explore()
    assert (best.length_scale, best.species_weight, best.ridge) == (2.5, 0.3, 0.07)


def test_a_fixed_ridge_below_rounding_warns(problem):
    surface = surface_of(problem, Grid(ridges=(1e-18,), ridge_fixed=True))
    surface.explore()
    assert any("below the rounding" in message for message in surface.warnings)


def test_trap_of_rounding_leave_one_out_lies_below_the_noise_of_the_kernel():
    """Uncentred features and float32 tiles: training and test matrix do not share their rounding.

    Over all ridges, leave-one-out chooses one below the rounding of K and promises a fraction of the test error. The
    rounding is measured, the ridges that the surface offers stand above it, and there the promise is kept.
    """
    torch.manual_seed(0)
    x = random_environments([20] * 160, 16, species=(29,))
    x = x.with_features(0.05 * x.features + 20.0)
    n = x.n_atoms.double()
    kernel = GaussianKernel(16.0)
    values, vectors = torch.linalg.eigh(gram(x, None, kernel, "sum", dtype=torch.float64).mix(0, 0.0))
    draw = torch.randn(160, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = vectors @ (values.clamp_min(0).sqrt() * draw)
    y = (y - y.mean()) / y.std()
    train, test = torch.arange(80), torch.arange(80, 160)
    pair = gram(x[train], None, kernel, "sum", dtype=torch.float32)
    K, K_test = pair.mix(0, 0.0), gram(x[test], x[train], kernel, "sum", dtype=torch.float32).mix(0, 0.0)
    linear = LinearPrior.fit(n[train, None], y[train], 1 / n[train])
    surface = Surface(
        FeatureCandidate(("layer",), x[train]), [PriorCandidate("none", y[train], linear)], n[train], n[train], Grid()
    )

    def promised_and_true(ridges):
        factor = RidgeFactor.of(K, n[train])
        loo = leave_one_out(factor, y[train], linear, ridges)
        best = int(CRITERIA["loo"](loo, n[train]).argmax())
        coefficients = factor.solve((y[train] - n[train] * linear.beta)[:, None], ridges)[best, :, 0]
        error = K_test @ coefficients + n[test] * linear.beta - y[test]
        return float(loo.residuals[best].square().mean().sqrt()), float(error.square().mean().sqrt())

    unit = float(K.diagonal().mean() / n[train].mean())
    promised, true = promised_and_true(unit * torch.tensor(Grid().ridges, dtype=torch.float64))
    assert true > 2 * promised
    kept_promise, kept_true = promised_and_true(surface._ridges(K, pair.noise[0]))
    assert kept_true < 1.2 * kept_promise
    assert kept_true < 0.7 * true


def test_trap_of_violent_structures_they_do_not_rule_the_choice():
    """Four structures far from all others have energies no fit without them can predict.

    Their squared residuals outweigh the other 36 together, so the squared error chooses for them; the default criterion
    chooses a length scale and ridge that serve the structures one would test on.
    """
    x = random_environments([4, 5, 6, 3, 5] * 20, 6)
    y = function_of(x, 3.0)
    features = x.features.clone()
    violent = x.structure >= 96
    features[violent] *= 4.0
    x = x.with_features(features)
    y[96:] += torch.tensor([60.0, -90.0, 120.0, -70.0], dtype=torch.float64)
    train = torch.cat([torch.arange(36), torch.arange(96, 100)])
    n = x.n_atoms.double()
    ridges = torch.logspace(-8, 2, 41, dtype=torch.float64)
    errors, scores = [], {name: [] for name in ("loo", "loo-rmse")}
    for scale in (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0):
        K = gram(x, None, GaussianKernel(scale), "sum").mix(0, 0.6)
        factor = RidgeFactor.of(K[train][:, train], n[train])
        linear = LinearPrior.fit(n[train, None], y[train], 1 / n[train])
        loo = leave_one_out(factor, y[train], linear, ridges)
        coefficients = factor.solve((y[train] - n[train] * linear.beta)[:, None], ridges)[:, :, 0]
        predicted = coefficients @ K[36:96][:, train].T + n[36:96] * linear.beta
        errors.append((predicted - y[36:96]).square().mean(1).sqrt())
        for name, found in scores.items():
            found.append(CRITERIA[name](loo, n[train]))
    errors = torch.stack(errors).flatten()
    chosen = {name: float(errors[torch.stack(found).argmax()]) for name, found in scores.items()}
    assert chosen["loo"] < 1.25 * float(errors.min()), chosen
    assert chosen["loo-rmse"] > 1.3 * chosen["loo"]


def test_search_screens_layers_and_names_a_runner_up(problem, monkeypatch):
    x, y, n, _ = problem
    useless = random_environments(x.n_atoms.tolist(), 6, seed=9)

    def priors(chosen):
        linear = LinearPrior.fit(n[chosen, None], y[chosen], 1 / n[chosen])
        return [PriorCandidate("none", y[chosen], linear)]

    def features(layers, chosen):
        return (x if layers == ("good",) else useless)[chosen]

    layered = SearchProblem([("bad",), ("good",), ("worse",)], features, priors, n, n, Grid())
    full = search(layered, seed=0)
    assert not full.screening
    assert {trial.layers for trial in full.trials} == {("bad",), ("good",), ("worse",)}
    monkeypatch.setattr(import_module("mekrr.tune.search"), "SCREENING_STRUCTURES", len(n) // 2)
    choice = search(layered, seed=0)
    assert choice.best.layers == full.best.layers == ("good",)
    assert choice.runner_up.layers != ("good",)
    assert choice.screening[0].layers == ("good",)
    assert choice.best == best_of(choice.trials)


def test_the_median_heuristic_measures_the_features_of_each_layer_set(problem):
    """Features ten times as wide have a median distance ten times as long."""
    x, _, n, prior = problem
    wide = x.with_features(10 * x.features)
    grid = Grid(length_scales=MEDIAN, length_scale_fixed=True)
    narrow, broad = (
        Surface(FeatureCandidate(("layer",), e), [prior], n, n, grid).explore().length_scale for e in (x, wide)
    )
    assert narrow == pytest.approx(float(torch.pdist(x.features).median()))
    assert broad == pytest.approx(10 * narrow)
