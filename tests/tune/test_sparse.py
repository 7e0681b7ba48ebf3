from dataclasses import replace

import pytest
import torch
from mekrr.tune.sparse import SparseSurface

from mekrr.features import Derivatives, Environments
from mekrr.kernels import Expansion, GaussianKernel
from mekrr.prior import Compositions, column_coefficients, fit_prior, target_columns
from mekrr.solve import BlockResiduals
from mekrr.tune import (
    Grid,
    PriorColumns,
    Probed,
    SparseProblem,
    best_of,
    make_block,
    scores_of,
    search_sparse,
)
from support import random_environments

SIZES = [4, 5, 6, 3] * 8
SCALES = tuple(8.0 / 2 ** (rung / 2) for rung in range(8))
FORCE_WEIGHTS = tuple(10.0 ** (-4 + step) for step in range(5))
GRID = Grid(
    length_scales=SCALES,
    species_weights=tuple(k / 5 for k in range(6)),
    ridges=tuple(10.0 ** (-8 + step) for step in range(10)),
)
TRUE_SCALE, TRUE_W = 4.0, 0.6
EVERYTHING = torch.arange(len(SIZES))


def fields(x, seed, n_rows=4):
    """A function drawn from the kernel, and its derivatives along random moves of the features, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(len(x.species), dtype=torch.float64)
    c = torch.randn(len(x.species), generator=generator, dtype=torch.float64)
    kernel = GaussianKernel(TRUE_SCALE)
    found = Expansion(x.features, x.species, torch.arange(len(ones)), c, ones, ones, kernel, TRUE_W, "sum")(x)
    energies = torch.zeros(x.n_structures, dtype=torch.float64).index_add_(0, x.structure, found.atomic_energies)
    energies = energies + 0.01 * torch.randn(x.n_structures, generator=generator, dtype=torch.float64)
    derivatives = []
    for t in range(x.n_structures):
        own = x.structure == t
        moves = torch.randn(n_rows, int(own.sum()), x.features.shape[1], generator=generator, dtype=torch.float64)
        dft = torch.einsum("af,raf->r", found.slopes[own], moves)
        noise = 0.01 * torch.randn(n_rows, generator=generator, dtype=torch.float64)
        derivatives.append(Derivatives(moves, dft + noise, torch.zeros_like(dft), 0))
    return energies, derivatives


@pytest.fixture(scope="module")
def problem():
    """The true features and others that know nothing, as two choices of layers; two priors."""
    x = random_environments(SIZES, 4)
    energies, derivatives = fields(x, 5)
    compositions = Compositions.of(x.species, x.n_atoms)
    columns = target_columns(energies, None, compositions)
    noise = torch.Generator().manual_seed(9)
    nonsense = torch.randn(x.features.shape, generator=noise, dtype=torch.float64)

    def features(layers, chosen):
        one = x if layers == ("true",) else x.with_features(nonsense)
        return Probed(one[chosen], [derivatives[t] for t in chosen.tolist()])

    def priors(chosen):
        found = []
        for name in ("none", "composition"):
            part = Compositions(compositions.counts[chosen], compositions.elements)
            _, linear, design = fit_prior(name, energies[chosen], part, None)
            coefficients = (column_coefficients(design, b, part.elements) for b in (linear.beta, linear.beta_without))
            found.append(PriorColumns(name, *coefficients))
        return found

    weights = torch.ones(len(SIZES), dtype=torch.float64)
    return SparseProblem([("true",)], features, priors, columns, weights, GRID, FORCE_WEIGHTS, 0.01, 40)


def surface(problem):
    return SparseSurface(problem, ("true",), EVERYTHING, problem.inducing, 0)


def test_coarse_to_fine_is_hardly_worse_than_the_whole_grid(problem):
    grid = replace(
        GRID, length_scales=SCALES[:4], species_weights=tuple(k / 10 for k in range(11)), ridges=(1e-5, 1e-3)
    )
    small = replace(problem, grid=grid, force_weights=FORCE_WEIGHTS[1:4])
    quick, full = surface(small), surface(small)
    found, best = quick.explore(), full.explore(exhaustive=True)
    assert full.factorisations == 4 * 11 * 3
    assert quick.factorisations < 0.5 * full.factorisations
    assert best.score - 0.05 <= found.score <= best.score  # 5% of the error
    assert found.score > min(t.score for t in full.trials) + 0.5  # where the grid is anything but flat


def test_every_value_of_a_short_grid_is_within_reach(problem):
    """Of six weights the coarse grid has three; the best of the others is found by its neighbours."""
    short = surface(replace(problem, grid=replace(GRID, length_scales=(TRUE_SCALE,)), force_weights=(1e-2,)))
    best = short.explore()
    assert {t.species_weight for t in short.trials} > {0.2, 0.6, 1.0}
    assert best.score == surface(short.problem).explore(exhaustive=True).score


def test_trials_say_what_was_tried(problem):
    """Evaluated once each; the leave-one-out errors are in meV, and the score follows from them."""
    one = replace(problem, grid=replace(GRID, length_scales=(2.0,), species_weights=(0.5,)), force_weights=(1e-2,))
    found = surface(one)
    found.explore()
    found.explore(exhaustive=True)
    assert found.factorisations == 1
    assert [t.prior for t in found.trials] == ["none", "composition"]
    for trial in found.trials:
        assert (trial.length_scale, trial.species_weight, trial.force_weight) == (4.0, 0.5, 1e-2)
        assert len(trial.scores) == len(trial.loo_mae) == len(trial.loo_forces) == len(GRID.ridges)
        assert trial.evidence == ()


def test_the_true_length_scale_and_species_weight_are_found(problem):
    best = search_sparse(replace(problem, grid=replace(GRID, species_weights=(0.0, 0.6, 1.0))), 0).best
    assert best.species_weight == 0.6
    assert 2.0 <= best.length_scale <= 8.0


def test_single_values_are_kept(problem):
    fixed = replace(GRID, length_scales=(3.3,), length_scale_fixed=True, species_weights=(0.25,), ridges=(1e-3,))

    def composition(chosen):
        return problem.priors(chosen)[1:]

    choice = search_sparse(replace(problem, grid=fixed, force_weights=(0.05,), priors=composition), 0)
    best = choice.best
    assert (best.prior, best.length_scale, best.species_weight) == ("composition", 3.3, 0.25)
    assert (best.ridge, best.force_weight) == (1e-3, 0.05)
    assert choice.runner_up is None
    assert choice.factorisations == 1
    assert choice.warnings == ()


def test_without_derivatives_energies_alone_are_scored(problem):
    def energies_only(layers, chosen):
        return replace(problem.features(layers, chosen), derivatives=[None] * len(chosen))

    choice = search_sparse(replace(problem, features=energies_only, force_weights=(0.0,)), 0)
    assert choice.best.force_weight is None
    assert choice.best.loo_forces == ()
    assert torch.isfinite(torch.tensor(choice.best.score))


def test_layers_are_screened_and_the_informative_ones_chosen(problem):
    grid = replace(GRID, length_scales=SCALES[:3], species_weights=(0.6,))
    both = replace(problem, grid=grid, layer_sets=[("nonsense",), ("true",)], force_weights=(1e-2,))
    choice = search_sparse(both, 0)
    assert choice.best.layers == ("true",)
    assert choice.screening[0].layers == ("true",)
    assert len(choice.screening) == 4
    assert choice.runner_up is not None
    assert choice.runner_up.score <= choice.best.score == best_of(choice.trials).score


@pytest.mark.parametrize("informative", [("one",), ("one", "two", "three")])
def test_the_best_of_the_screening_and_the_largest_set_are_compared(problem, informative):
    """Whichever of them is informative, and although the screening has a third that nearly is."""
    grid = replace(GRID, length_scales=SCALES[:3], species_weights=(0.6,))

    def features(layers, chosen):
        return problem.features(("true",) if layers == informative else ("nonsense",), chosen)

    sets = [("one",), ("one", "two"), ("one", "two", "three")]
    layered = replace(problem, features=features, grid=grid, layer_sets=sets, force_weights=(1e-2,))
    choice = search_sparse(layered, 0)
    assert choice.screening[0].layers == choice.best.layers == informative
    assert {trial.layers for trial in choice.trials} == {informative, sets[-1]}
    assert choice.best in choice.trials


def test_finalists_are_judged_in_the_larger_basis(problem, monkeypatch):
    """Features that look good on half of the structures only lose to those that are good on all."""
    monkeypatch.setattr("mekrr.tune.sparse.SCREENING", (16, 20))
    monkeypatch.setattr("mekrr.tune.sparse.SEARCH", (16, 20))
    grid = replace(GRID, length_scales=SCALES[:3], species_weights=(0.6,))

    def features(layers, chosen):
        informative = ("few",) if len(chosen) == 16 else ("all", "layers")
        return problem.features(("true",) if layers == informative else ("nonsense",), chosen)

    sets = [("few",), ("all", "layers")]
    choice = search_sparse(replace(problem, features=features, grid=grid, layer_sets=sets, force_weights=(1e-2,)), 0)
    assert best_of(choice.trials).layers == ("few",)
    assert choice.best.layers == ("all", "layers")


def test_a_search_on_a_subset_depends_on_the_seed_alone(problem, monkeypatch):
    monkeypatch.setattr("mekrr.tune.sparse.SEARCH", (12, 20))
    small = replace(problem, grid=replace(GRID, length_scales=(2.0, 2.0 / 2**0.5)), force_weights=(1e-2,))
    first, same, other = (search_sparse(small, seed).best for seed in (1, 1, 2))
    assert first == same
    assert first.scores != other.scores


def test_an_optimum_on_the_edge_is_said(problem, monkeypatch):
    monkeypatch.setattr("mekrr.tune.safety.SHORTEST_MARGIN", 1e-12)
    far = replace(GRID, length_scales=(0.05, 0.05 / 2**0.5, 0.025), species_weights=(0.6,))
    choice = search_sparse(replace(problem, grid=far, force_weights=(1e-2,)), 0)
    assert any("length scale" in w and "on the edge" in w for w in choice.warnings)
    noisy = replace(GRID, length_scales=(2.0,), species_weights=(0.6,), ridges=(1e-9, 1e-8))
    choice = search_sparse(replace(problem, grid=noisy, force_weights=(1e-2,)), 0)
    assert any("largest tried" in w for w in choice.warnings)


@pytest.mark.parametrize("kernel", ["linear", "polynomial"])
def test_kernels_without_a_ladder_are_searched_too(problem, kernel):
    grid = replace(GRID, kernel=kernel, length_scales=(1.0, 0.5), species_weights=(0.6,))
    choice = search_sparse(replace(problem, grid=grid, force_weights=(1e-2,)), 0)
    assert {t.length_scale for t in choice.trials} == {2.0, 1.0}


def test_score_is_the_geometric_mean_of_energy_and_force_errors():
    energy = torch.tensor([[[0.2, -0.4], [0.02, 0.04]]], dtype=torch.float64)
    force = torch.tensor([[[0.3, torch.nan], [0.03, torch.nan]]], dtype=torch.float64)
    n = torch.tensor([4.0, 16.0], dtype=torch.float64)
    found = scores_of(BlockResiduals(energy, energy[0].abs(), force, force), n)
    e = (0.2 / 2 + 0.4 / 4) / 2
    assert float(found[0, 0]) == pytest.approx(-0.5 * float(torch.tensor(e * 0.3).log()))
    assert float(found[0, 1] - found[0, 0]) == pytest.approx(float(torch.tensor(10.0).log()))
    none = scores_of(BlockResiduals(energy, energy[0].abs(), force * torch.nan, force), n)
    assert float(none[0, 0]) == pytest.approx(-float(torch.tensor(e).log()))
    broken = scores_of(BlockResiduals(energy * torch.inf, energy[0].abs(), force, force), n)
    assert float(broken[0, 0]) < -1e300
    perfect = scores_of(BlockResiduals(energy * 0, energy[0].abs(), force * 0, force), n)
    assert float(found.max()) < float(perfect[0, 0]) < 100


def test_blocks_hold_targets_where_they_belong():
    derivatives = Derivatives(torch.zeros(3, 2, 4), torch.tensor([1.0, 2.0, 3.0]).double(), torch.ones(3).double(), 1)
    columns = torch.tensor([-7.0, -6.0, 2.0]).double()
    block = make_block(torch.zeros(4, 5).double(), columns, derivatives, 2, 1.5)
    assert torch.equal(block.columns[0], columns)
    assert block.columns[1:].tolist() == [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [3.0, 1.0, 0.0]]
    assert (block.n_forces, block.n_atoms, block.weight) == (2, 2, 1.5)
    assert make_block(torch.zeros(1, 5).double(), columns, None, 2, 1.0).n_forces == 0


def test_environments_stay_grouped_by_structure(problem):
    probed = problem.features(("true",), torch.tensor([3, 1]))
    assert isinstance(probed.environments, Environments)
    assert probed.environments.n_atoms.tolist() == [3, 5]
