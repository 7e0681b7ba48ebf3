import pytest
import torch

from mekrr.kernels import GaussianKernel, gram
from mekrr.linalg import least_squares
from mekrr.solve import LinearPrior, RidgeFactor, leave_one_out, log_evidence
from support import random_environments

RIDGES = torch.tensor([1e-3, 1e-1, 1e1], dtype=torch.float64)


@pytest.fixture
def problem():
    """Mixed sizes and weights, a kernel, targets, and the counts of three elements as design matrix."""
    x = random_environments([4, 6, 3, 5, 7, 2, 6, 4, 5, 3], 3)
    K = gram(x, None, GaussianKernel(2.0), "sum").mix(0, 0.5)
    torch.manual_seed(1)
    y = torch.randn(10, dtype=torch.float64) * 3
    weights = torch.rand(10, dtype=torch.float64) + 0.5
    H = torch.stack([torch.bincount(x.structure[x.species == z], minlength=10) for z in (1, 6, 29)], 1).double()
    return K, y, H, x.n_atoms / weights, weights.sqrt() / x.n_atoms


def refit_without(t, K, y, H, noise, row_weight, ridge):
    """A true refit without structure t, prior included: its residual at t and predictive variance."""
    rest = torch.arange(len(y)) != t
    beta, _ = least_squares(H[rest] * row_weight[rest, None], y[rest] * row_weight[rest])
    G = K[rest][:, rest] + ridge * torch.diag(noise[rest])
    k = K[t, rest]
    prediction = H[t] @ beta + k @ torch.linalg.solve(G, y[rest] - H[rest] @ beta)
    variance = K[t, t] + ridge * noise[t] - k @ torch.linalg.solve(G, k)
    return y[t] - prediction, variance


def check(K, y, H, noise, row_weight):
    factor = RidgeFactor.of(K, noise)
    loo = leave_one_out(factor, y, LinearPrior.fit(H, y, row_weight), RIDGES)
    for r, ridge in enumerate(RIDGES):
        for t in range(len(y)):
            residual, variance = refit_without(t, K, y, H, noise, row_weight, ridge)
            assert loo.residuals[r, t] == pytest.approx(float(residual), rel=1e-10, abs=1e-10)
            assert loo.variances[r, t] == pytest.approx(float(variance), rel=1e-10)


def test_leave_one_out_equals_brute_force_refits(problem):
    check(*problem)


def test_leave_one_out_with_a_rank_deficient_prior(problem):
    """One composition only: every count is proportional, the shifts are the minimum-norm ones."""
    K, y, _, noise, row_weight = problem
    H = noise.new_tensor([[2.0, 1.0, 8.0]]).repeat(10, 1)
    check(K, y, H, noise, row_weight)


def test_leave_one_out_where_a_structure_alone_determines_a_shift(problem):
    """Leverage 1: without the only structure that holds an element, its shift is the minimum-norm one."""
    K, y, H, noise, row_weight = problem
    H = H.clone()
    H[:, 0] = 0.0
    H[4, 0] = 3.0
    check(K, y, H, noise, row_weight)


def test_leave_one_out_without_any_fitted_prior(problem):
    K, y, H, noise, row_weight = problem
    check(K, y, H[:, :0], noise, row_weight)


def test_solve_determinant_and_half_inverse(problem):
    K, y, _, noise, _ = problem
    factor = RidgeFactor.of(K, noise)
    for r, ridge in enumerate(RIDGES):
        G = K + ridge * torch.diag(noise)
        torch.testing.assert_close(factor.solve(y[:, None], RIDGES)[r, :, 0], torch.linalg.solve(G, y))
        assert factor.log_determinant(RIDGES)[r] == pytest.approx(float(torch.logdet(G)))
        R = factor.half_inverse(float(ridge))
        torch.testing.assert_close(R.T @ R, torch.linalg.inv(G))


def test_evidence_is_the_gaussian_log_density_at_its_best_amplitude(problem):
    K, y, _, noise, _ = problem
    evidence = log_evidence(RidgeFactor.of(K, noise), y, RIDGES)
    for r, ridge in enumerate(RIDGES):
        G = K + ridge * torch.diag(noise)
        best = y @ torch.linalg.solve(G, y) / len(y)

        def density(amplitude, G=G):
            return torch.distributions.MultivariateNormal(torch.zeros(10).double(), amplitude * G).log_prob(y)

        assert evidence[r] == pytest.approx(float(density(best)))
        assert float(density(1.1 * best)) < evidence[r] > float(density(0.9 * best))


def test_a_kernel_that_is_not_finite_is_refused(problem):
    K, _, _, noise, _ = problem
    K[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        RidgeFactor.of(K, noise)
