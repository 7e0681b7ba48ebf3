"""What the options and the labels must reach on the way from a training set to a solution."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from mekrr import KernelPotential
from mekrr.data import Structure, as_structures
from mekrr.features import Environments, Extraction, extract
from mekrr.kernels import energy_noise
from mekrr.linalg import add_diagonal
from mekrr.potential import FitOptions
from mekrr.potential.solution import final_ridges, solve
from mekrr.potential.training import TrainingSet, plan_of, prior_candidates, search_problem
from mekrr.prior import PRIORS
from mekrr.tune import Trial
from support import random_environments

LAYERS = ("interaction_0",)
FIXED = {"layers": LAYERS, "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-3, "prior": "composition"}
FIXED |= {"tangent_share": 0.0}
SPARSE = {"force_weight": 1e-3, "inducing": 30, "probes": 2}
EXACT = {"solver": "exact", "forces": False}


def fit(structures, **options):
    pytest.importorskip("sevenn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", **(FIXED | options)).fit(structures)


def random_set(weights, repeats=None, references=None, seed=0):
    """Structures of random features and energies, each as often as asked for."""
    x = random_environments([4, 3, 5, 2, 4, 6], 3, species=(1, 29), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    energies, own = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    chosen = torch.arange(6) if repeats is None else torch.repeat_interleave(torch.arange(6), torch.tensor(repeats))
    extraction = Extraction(x, ("only",), (3,), own)[chosen]
    return TrainingSet.of(extraction, None, energies[chosen], torch.tensor(weights, dtype=torch.float64), references)


# The prior: weights and references.


@pytest.mark.parametrize("name", PRIORS)
def test_a_weight_of_two_is_the_structure_twice(name):
    weighted, twice = random_set([1, 2, 1, 3, 1, 1]), random_set([1.0] * 9, [1, 2, 1, 3, 1, 1])
    a, b = weighted.prior(name), twice.prior(name)
    for z in a.shifts:
        assert a.shifts[z] == pytest.approx(b.shifts[z], abs=1e-10)
    assert (a.factor, a.everywhere) == pytest.approx((b.factor, b.everywhere), abs=1e-10)
    columns = [data.prior_columns(name).coefficients for data in (weighted, twice)]
    torch.testing.assert_close(*columns)
    some = weighted.prior_columns(name, torch.tensor([1, 3, 4, 5])).coefficients
    same = twice.prior_columns(name, torch.tensor([1, 2, 4, 5, 6, 7, 8])).coefficients
    torch.testing.assert_close(some, same)
    plain = random_set([1.0] * 6).prior_columns(name).coefficients
    assert not torch.allclose(columns[0], plain, atol=1e-3)


@pytest.mark.parametrize("references", [None, {1: -3.0}])
@pytest.mark.parametrize("name", PRIORS)
def test_the_columns_of_a_prior_are_the_prior(name, references):
    data = random_set([1, 2, 1, 3, 1, 1], references=references)
    prior, columns = data.prior(name), data.prior_columns(name)
    x = data.extraction.environments
    shifts = torch.zeros(6, dtype=torch.float64).index_add_(0, x.structure, prior.shift_energies(x.species))
    energies = shifts + prior.factor * data.extraction.energies
    torch.testing.assert_close(data.columns @ columns.coefficients, data.energies - energies)
    if references and name == "composition":
        assert prior.shifts[1] == -3.0


def test_isolated_atoms_are_for_the_prior_that_has_them():
    data = random_set([1.0] * 6)
    assert prior_candidates(FitOptions(), data) == list(PRIORS)
    assert prior_candidates(FitOptions(isolated_atoms=True), data) == ["composition"]


def test_energies_of_isolated_atoms_are_the_references(alloys):
    """To the solution as well: what the kernel learns is the rest of these references, not of fitted ones."""
    alone = [Structure(Atoms(symbol), energy) for symbol, energy in (("Cu", -1.5), ("Au", -2.5))]
    structures = [*alone, *as_structures(alloys[:8])]
    references = {29: -1.5, 79: -2.5}
    for options in (EXACT, SPARSE):
        fixed = fit(structures, isolated_atoms=True, ridge=1e-6, **options)
        assert fixed.fitted_.prior.shifts == references
        assert fixed.fitted_.reference.shifts == fit(structures, **options).fitted_.reference.shifts != references
        errors = [p.energy - s.energy for p, s in zip(fixed.predict(structures, forces=False), structures, strict=True)]
        assert np.abs(errors).max() < 0.05
    assert fit(structures, **EXACT).fitted_.prior.shifts != references


# The ridge.


def test_ridges_below_rounding_are_not_tried_in_the_solution():
    trial = Trial(("only",), "none", 1.0, 0.5, (1e-12, 1e-6, 1e-3), (0.0, 1.0, 0.5), (1.0,) * 3, (1.0,) * 3)
    options = FitOptions()
    assert final_ridges(trial, options, 0.0).tolist() == [1e-12, 1e-6, 1e-3]
    assert final_ridges(trial, options, 1e-7).tolist() == [1e-6, 1e-3]
    assert final_ridges(trial, options, 1e-2).tolist() == [1e-2]
    assert final_ridges(trial, FitOptions(ridge=1e-9), 1e-2).tolist() == [1e-9]


def test_the_exact_solution_stays_above_the_rounding_of_the_whole_set(monkeypatch, small_schnet):
    """Energies that a kernel function gives without noise want the smallest ridge there is."""
    data = random_set([1.0] * 6)
    h = data.extraction.environments
    smooth = torch.zeros(6, dtype=torch.float64).index_add_(0, h.structure, torch.sin(h.features[:, 0]))
    data = replace(data, energies=smooth, columns=torch.cat([smooth[:, None], data.columns[:, 1:]], dim=1))
    ridges = tuple(10.0**k for k in range(-14, 1))
    trial = Trial(("only",), "none", 3.0, 0.0, ridges, (0.0,) * 15, (1.0,) * 15, (1.0,) * 15)

    def ridge(rounding):
        monkeypatch.setattr("mekrr.tune.problem.rounding", lambda *arguments: (rounding,))
        return solve([], data, plan_of("exact"), trial, FitOptions(criterion="loo"), small_schnet).model.ridge

    assert ridge(0.0) < 1e-6
    assert ridge(1e-4) > 1e-4


# Amplitudes.


def test_deviations_cover_two_thirds_of_the_residuals_of_the_exact_solver(alloys):
    """Leave-one-out residuals over deviations, from the inverse written out."""
    found = fit(alloys[:20], **EXACT).fitted_
    labels, model = found.labels, found.model
    noise = model.ridge * energy_noise(labels.n_atoms.double(), "sum")
    variance = 1.0 / torch.linalg.inv(model.kernel.gram(model.centres) + torch.diag(noise)).diagonal()
    ratio = labels.loo_residuals.abs() / (model.energy_amplitude * variance).sqrt()
    assert float(torch.quantile(ratio, 0.6827)) == pytest.approx(1.0, rel=1e-2)


def test_deviations_cover_two_thirds_of_the_residuals_in_a_small_basis(alloys, sevennet):
    """They are those of predictions: what ten environments do not express of a structure is in them."""
    structures = as_structures(alloys[:20])
    found = fit(structures, solver="sparse", forces=False, inducing=10).fitted_
    model, labels = found.model, found.labels
    x = model.scaler(extract([s.atoms for s in structures], sevennet, LAYERS).environments)
    each = [x[torch.tensor([t])] for t in range(20)]
    psi = torch.cat([model.basis.rows(one, None) for one in each])
    own = torch.cat([model.kernel.gram(one).reshape(1) for one in each])
    n, ratios = labels.n_atoms.double(), []
    for t in range(20):
        others = torch.arange(20) != t
        A = (psi[others] / n[others, None]).T @ psi[others]
        left_open = psi[t] @ torch.linalg.solve(torch.eye(10) + A / model.ridge, psi[t])
        variance = own[t] - psi[t].square().sum() + left_open + model.ridge * n[t]
        ratios.append(labels.loo_residuals[t].abs() / (model.energy_amplitude * variance).sqrt())
    assert float(torch.quantile(torch.stack(ratios), 0.6827)) == pytest.approx(1.0, rel=1e-2)
    assert float(((own - psi.square().sum(1)) / (own + model.ridge * n)).max()) > 1e-4  # it matters


@pytest.mark.parametrize("options", [EXACT, SPARSE])
def test_deviations_are_in_the_unit_of_the_labels(alloys, options):
    """Labels ten times as large: deviations of energies and of forces are, too."""
    plain = as_structures(alloys[:10])
    large = [Structure(s.atoms, 10 * s.energy, 10 * s.forces) for s in plain]
    a, b = fit(plain, **options), fit(large, **options)
    forces = "force_weight" in options
    (p,), (q,) = (m.predict(alloys[20:21], uncertainty=True, force_uncertainty=forces) for m in (a, b))
    assert q.energy_std == pytest.approx(10 * p.energy_std, rel=1e-3)
    assert b.fitted_.model.energy_amplitude == pytest.approx(100 * a.fitted_.model.energy_amplitude, rel=1e-3)
    if forces:
        np.testing.assert_allclose(q.forces_std, 10 * p.forces_std, rtol=1e-2)


# Forces.


def test_the_equations_kept_have_the_coefficients_as_their_solution(forces_potential):
    """With nothing added, an update changes nothing, whatever the conjugate gradients did."""
    fitted = forces_potential.fitted_
    model, labels = fitted.model, fitted.labels
    assert fitted.record.solver.exact_forces.residuals
    x = Environments(torch.zeros(len(labels.species), 1), labels.species, labels.n_atoms)
    seen = Extraction(x, ("none",), (1,), labels.backbone_energies)
    data = TrainingSet.of(seen, None, labels.energies, labels.weights)
    moments = model.equations.total_moments @ data.prior_columns(fitted.prior.name).coefficients
    solved = torch.linalg.solve(add_diagonal(model.equations.total, model.ridge), moments)
    whitened = model.basis.features.L.T @ model.coefficients
    torch.testing.assert_close(solved, whitened, rtol=1e-5, atol=1e-6 * float(whitened.abs().max()))


def test_the_seed_reaches_the_probes(alloys):
    """Nothing else depends on it here: all is fixed, and there are few candidates for inducing environments."""
    first, same, other = (fit(alloys[:6], exact_forces=False, seed=seed, **SPARSE) for seed in (0, 0, 1))
    energies = [p.predict(alloys[20:22])[1].energy for p in (first, same, other)]
    assert energies[0] == energies[1]
    assert abs(energies[0] - energies[2]) > 1e-5


def test_the_stress_weight_counts(alloys):
    """In the search and in the solution: with a large one, stresses of the training set are met."""
    stress = 0.05 * np.diag([1.0, 2.0, -1.0])
    structures = [replace(s, stress=stress) for s in as_structures(alloys[:6])]
    light, heavy = (fit(structures, stress_weight=weight, **SPARSE) for weight in (1e-6, 10.0))
    wrong = [np.abs(p.predict(structures)[2].stress - stress).mean() for p in (light, heavy)]
    assert wrong[1] < 0.5 * wrong[0]
    assert heavy.fitted_.model.weights.stress == 10.0
    problem = search_problem(
        random_set([1.0] * 6), FitOptions(stress_weight=3.0), heavy.backbone, plan_of("sparse"), None
    )
    assert problem.stress_weight == 3.0
    scores = [p.fitted_.record.search.surface[0].score for p in (light, heavy)]
    assert scores[0] != scores[1]


# The criterion.


def test_the_criterion_scores_the_search_and_the_solution(alloys):
    found = fit(alloys[:10], criterion="evidence", **EXACT).fitted_.record.search
    for record in (found.best, *found.surface):
        assert record.score == pytest.approx(record.log_evidence / 10)
    other = fit(alloys[:10], criterion="loo", **EXACT).fitted_.record.search
    for record in (other.best, *other.surface):
        assert record.score != pytest.approx(record.log_evidence / 10)


def test_the_criterion_scores_fits_with_forces(alloys):
    by_name = {}
    for name in ("auto", "loo-mae", "loo-rmse"):
        found = fit(alloys[:6], criterion=name, exact_forces=False, **SPARSE).fitted_.record.search
        by_name[name] = (found.best.score, found.surface[0].score)
    assert by_name["auto"] == by_name["loo-mae"]
    assert all(a != b for a, b in zip(by_name["loo-mae"], by_name["loo-rmse"], strict=True))
    with pytest.raises(ValueError, match="looks at energies only, but forces are fitted"):
        fit(alloys[:6], criterion="evidence", **SPARSE)


def test_a_ridge_below_rounding_is_not_chosen_and_the_users_own_still_has_deviations(alloys):
    """Few rows and a basis of more functions: rounding had left the posterior no Cholesky factor, and a traceback."""
    options = SPARSE | {"forces": True, "force_weight": 1e-3, "tangent_share": 0.6, "probes": 2, "exact_forces": False}
    tiny = fit(alloys[:5], **options, ridge=1e-22)
    for potential in (tiny, tiny.update(alloys[5:7])):
        found = potential.predict(alloys[:8], uncertainty=True, force_uncertainty=True)
        assert all(np.isfinite(one.energy_std) and np.isfinite(one.forces_std).all() for one in found)


def test_no_ridge_is_chosen_that_eigenvalues_are_not_certain_to(small_schnet):
    ridges = tuple(10.0**k for k in range(-30, -20))
    trial = Trial(("only",), "none", 3.0, 0.0, ridges, (0.0,) * 10, (1.0,) * 10, (1.0,) * 10)
    model = solve([], random_set([1.0] * 6), plan_of("sparse"), trial, FitOptions(criterion="loo"), small_schnet).model
    largest = float(torch.linalg.eigvalsh(model.equations.total)[-1])
    assert model.ridge == pytest.approx(torch.finfo(torch.float64).eps * largest, rel=1e-6, abs=0.0)
