import pytest
import torch

from mekrr.solve import Factor, NormalEquations

RIDGES = torch.tensor([1e-4, 1e-1, 1e1], dtype=torch.float64)


def test_one_factor_solves_every_ridge(case):
    equations = NormalEquations.of(case.observations, case.weights)
    factor = Factor.of(equations)
    moments = equations.total_moments[:, 0]
    for ridge, damped in zip(RIDGES.tolist(), factor.damped(RIDGES), strict=True):
        G = equations.total + ridge * torch.eye(len(moments), dtype=torch.float64)
        expected = torch.linalg.solve(G, moments)
        torch.testing.assert_close(factor.solve(moments, ridge), expected, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close((factor.V * damped) @ factor.V.T, torch.linalg.inv(G), rtol=1e-7, atol=1e-8)


def test_eigenvalues_below_zero_are_rounding(case):
    """A basis larger than the rows: most eigenvalues are zero, and rounding must not make a ridge negative."""
    factor = Factor.of(NormalEquations.of(case.observations[3:4], case.weights))
    assert (factor.eigenvalues >= 0).all()
    assert int((factor.eigenvalues > 1e-10).sum()) == 1


def test_evidence_is_that_of_all_rows(case):
    """The Gaussian log density of energies, forces and strains in the space of rows, at its best amplitude."""
    observations, weights = case.observations, case.weights
    equations = NormalEquations.of(observations, weights)
    factor = Factor.of(equations)
    prior = torch.tensor([[1.0, -1.0, 0.5, 0.2], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    psi = torch.cat([one.psi for one in observations])
    w = torch.cat([one.row_weights(weights) for one in observations])
    targets = torch.cat([one.columns for one in observations]) @ prior.T
    misfit = torch.zeros(2, 3, dtype=torch.float64)
    for p in range(2):
        for r, ridge in enumerate(RIDGES.tolist()):
            left = targets[:, p] - psi @ factor.solve(equations.total_moments @ prior[p], ridge)
            misfit[p, r] = (w * left.square()).sum()
    found = factor.log_evidence(prior, RIDGES, misfit, float(w.log().sum()), len(w))
    for p in range(2):
        for r, ridge in enumerate(RIDGES.tolist()):
            G = psi @ psi.T + ridge * torch.diag(1 / w)
            y = targets[:, p]
            amplitude = y @ torch.linalg.solve(G, y) / len(y)
            density = torch.distributions.MultivariateNormal(torch.zeros_like(y), amplitude * G).log_prob(y)
            assert float(found[p, r]) == pytest.approx(float(density), rel=1e-9)


def test_equations_that_are_not_finite_are_refused(case):
    one = case.observations[0]
    broken = NormalEquations.of([type(one)(one.psi * torch.nan, *list(vars(one).values())[1:])], case.weights)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Factor.of(broken)
