from dataclasses import replace

import pytest
import torch

from mekrr.kernels import Basis, GaussianKernel, StructureKernel, energy_noise
from mekrr.prior import PRIORS
from mekrr.solve import Factor, NormalEquations, Observation, RowWeights, leave_one_structure_out
from oracles import dense, ridge_solution, total_energies

RIDGES = torch.tensor([1e-4, 1e-1, 1e1], dtype=torch.float64)


def closed_form(case):
    coefficients, without = case.priors(PRIORS)
    factor = Factor.of(NormalEquations.of(case.observations, case.weights))
    return leave_one_structure_out(factor, case.observations, case.weights, coefficients, without, RIDGES)


def fit(observations, weights, gamma, ridge):
    """Coefficients of weighted least squares with a ridge, over the stacked rows, and the matrix solved."""
    roots = [one.row_weights(weights).sqrt()[:, None] for one in observations]
    Z = torch.cat([one.psi * root for one, root in zip(observations, roots, strict=True)])
    y = torch.cat([one.columns * root for one, root in zip(observations, roots, strict=True)]) @ gamma
    eye = torch.eye(Z.shape[1], dtype=torch.float64)
    stacked = torch.cat([Z, ridge**0.5 * eye])  # a QR of rows keeps the digits that normal equations lose
    Q, R = torch.linalg.qr(stacked)
    c = torch.linalg.solve_triangular(R, (Q[: len(Z)].T @ y)[:, None], upper=True)[:, 0]
    return c, R


def refit_without(t, gamma, ridge, others, left_out, weights):
    """Residuals of the rows left out and their variances in a fit of the others."""
    c, R = fit(others, weights, gamma, ridge)
    half = torch.linalg.solve_triangular(R.T, left_out.psi.T, upper=False)
    variance = ridge * half.square().sum(0) + ridge / left_out.row_weights(weights)
    return left_out.columns @ gamma - left_out.psi @ c, variance


def check(found, case, names, pinned=()):
    labelled = case.observations
    for t, one in enumerate(labelled):
        rest = [s for s in range(len(labelled)) if s != t]
        others = [*(labelled[s] for s in rest), *pinned]
        for p, name in enumerate(names):
            gamma = case.prior(name, rest).coefficients
            for r, ridge in enumerate(RIDGES.tolist()):
                residual, variance = refit_without(t, gamma, ridge, others, one, case.weights)
                assert found.energy[p, r, t] == pytest.approx(float(residual[0]), rel=1e-8)
                assert found.energy_variance[r, t] == pytest.approx(float(variance[0]), rel=1e-8)
                rows = slice(1, 1 + one.n_forces)
                if not one.n_forces:
                    assert found.force[p, r, t].isnan()
                    assert found.force_ratio[p, r, t].isnan()
                    continue
                size = (residual[rows].square().sum() / (3 * one.n_atoms)).sqrt()
                assert found.force[p, r, t] == pytest.approx(float(size), rel=1e-8)
                ratio = (residual[rows].square() / variance[rows]).mean()
                assert found.force_ratio[p, r, t] == pytest.approx(float(ratio), rel=1e-8)


def test_leaving_out_equals_brute_force_refits(case):
    """Energies, forces and strains; weights; the prior refitted without the structure."""
    check(closed_form(case), case, PRIORS)


def test_misfit_and_weights_are_those_of_the_whole_fit(case):
    found = closed_form(case)
    coefficients, _ = case.priors(PRIORS)
    w = torch.cat([one.row_weights(case.weights) for one in case.observations])
    for p in range(len(PRIORS)):
        for r, ridge in enumerate(RIDGES.tolist()):
            c, _ = fit(case.observations, case.weights, coefficients[p], ridge)
            left = torch.cat([one.columns @ coefficients[p] - one.psi @ c for one in case.observations])
            assert found.misfit[p, r] == pytest.approx(float((w * left.square()).sum()), rel=1e-7)
    assert found.log_weight == pytest.approx(float(w.log().sum()))
    assert found.rows == len(w)


def test_pinned_observations_stay_in_and_are_not_left_out(case):
    """In the fit at every refit, asked to be zero; neither residuals of their own nor a share in the prior."""
    one = case.observations[0]
    pinned = replace(one, psi=0.7 * one.psi, columns=torch.zeros_like(one.columns), weight=5.0, labelled=False)
    among = [*case.observations[:3], pinned, *case.observations[3:]]
    coefficients, without = case.priors(PRIORS[:2])
    factor = Factor.of(NormalEquations.of(among, case.weights))
    found = leave_one_structure_out(factor, among, case.weights, coefficients, without, RIDGES)
    assert found.energy.shape == (2, 3, 8)
    check(found, case, PRIORS[:2], [pinned])
    alone = leave_one_structure_out(factor, [pinned], case.weights, coefficients, without[:, :0], RIDGES)
    assert alone.energy.shape == (2, 3, 0)
    assert (alone.rows, alone.log_weight, float(alone.misfit.sum())) == (0, 0.0, 0.0)
    w = sum(len(each.psi) for each in case.observations)
    assert found.rows == w


@pytest.mark.parametrize("embedding", ["sum", "mean"])
def test_structures_as_basis_are_kernel_ridge_regression(x, embedding):
    """The textbook's formulas, r = [G^-1 y]_t / [G^-1]_tt, variance 1 / [G^-1]_tt and the log evidence of G."""
    kernel = StructureKernel.weighted(GaussianKernel(2.5), 0.3, embedding)
    scale = total_energies(kernel, x)
    K = scale[:, None] * dense(x, x, kernel) * scale
    y = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    weights = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)
    growth = energy_noise(x.n_atoms.double(), embedding)
    basis = Basis.of(x, kernel, relative=1e-14)
    observations = [
        Observation(
            basis.rows(x[torch.tensor([t])], None), y[t].reshape(1, 1), int(x.n_atoms[t]), 0, float(w), float(growth[t])
        )
        for t, w in enumerate(weights)
    ]
    rows, one = RowWeights(0.0, 0.0), torch.ones(1, 1, dtype=torch.float64)
    factor = Factor.of(NormalEquations.of(observations, rows))
    found = leave_one_structure_out(factor, observations, rows, one, one.expand(1, 8, 1), RIDGES)
    evidence = factor.log_evidence(one, RIDGES, found.misfit, found.log_weight, found.rows)
    for r, ridge in enumerate(RIDGES.tolist()):
        dual, G = ridge_solution(K, growth / weights, y, ridge)
        diagonal = torch.linalg.inv(G).diagonal()
        torch.testing.assert_close(found.energy[0, r], dual / diagonal, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.energy_variance[r], 1 / diagonal, rtol=1e-8, atol=1e-12)
        amplitude = y @ dual / 8
        density = torch.distributions.MultivariateNormal(torch.zeros_like(y), amplitude * G).log_prob(y)
        assert float(evidence[0, r]) == pytest.approx(float(density), rel=1e-9)
        c = basis.coefficients(factor.solve(factor.equations.total_moments[:, 0], ridge))
        torch.testing.assert_close(c * torch.ones(8), scale * dual, rtol=1e-7, atol=1e-9)


def test_little_memory_changes_nothing(monkeypatch, case):
    """Structures with equal numbers of rows are treated together as far as memory goes."""
    whole = closed_form(case)
    monkeypatch.setattr("mekrr.solve.leave_out.AT_ONCE", 1)
    for name, value in vars(closed_form(case)).items():
        torch.testing.assert_close(value, getattr(whole, name), equal_nan=True, rtol=1e-10, atol=1e-12)


def test_variances_never_fall_below_the_noise(case):
    found = closed_form(case)
    noise = torch.tensor([one.energy_noise / one.weight for one in case.observations], dtype=torch.float64)
    assert (found.energy_variance >= RIDGES[:, None] * noise * (1 - 1e-12)).all()


def test_what_the_basis_does_not_express_is_kept_apart():
    """Prior variance of rows less its share in the basis; nothing where the basis expresses all of it."""
    psi = torch.tensor([[0.5, 1.0], [2.0, 0.0]], dtype=torch.float64)
    one = Observation(psi, torch.ones(2, 1, dtype=torch.float64), 3, 1, 1.0, 3.0)
    prior = torch.tensor([2.0, 9.0], dtype=torch.float64)
    assert one.unexplained.tolist() == [0.0, 0.0]
    assert replace(one, prior_variance=prior).unexplained.tolist() == pytest.approx([0.75, 5.0])
    assert replace(one, prior_variance=0 * prior).unexplained.tolist() == [0.0, 0.0]
    several = [replace(one, prior_variance=prior), replace(one, labelled=False), one]
    weights, one_column = RowWeights(1.0, 0.0), torch.ones(1, 1, dtype=torch.float64)
    factor = Factor.of(NormalEquations.of(several, weights))
    without = torch.ones(1, 2, 1, dtype=torch.float64)
    found = leave_one_structure_out(factor, several, weights, one_column, without, torch.ones(1, dtype=torch.float64))
    assert (found + found).unexplained.tolist() == pytest.approx([0.75, 0.0, 0.75, 0.0])
    # the residual of the force is that of before, and its variance larger by what the basis does not express
    known = [replace(one, prior_variance=None), *several[1:]]
    before = leave_one_structure_out(factor, known, weights, one_column, without, torch.ones(1, dtype=torch.float64))
    squares = found.force[0, 0, 0] ** 2 * 9  # of one direction, over nine components
    variance = squares / before.force_ratio[0, 0, 0]
    assert float(found.force_ratio[0, 0, 0]) == pytest.approx(float(squares / (variance + 5.0)))
    assert float(found.force_ratio[0, 0, 1]) == float(before.force_ratio[0, 0, 1])
