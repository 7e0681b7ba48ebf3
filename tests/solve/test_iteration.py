import pytest
import torch

from mekrr.solve import conjugate_gradients


def system(n=12):
    """A positive definite matrix, a right-hand side, and a rough diagonal preconditioner."""
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(n, n, dtype=torch.float64, generator=generator)
    A = B @ B.T + torch.diag(torch.logspace(0, 2, n, dtype=torch.float64))
    return A, torch.randn(n, dtype=torch.float64, generator=generator), 1 / A.diagonal()


def iterate(A, b, M, **options):
    calls = []

    def product(v):
        calls.append(v)
        return A @ v

    x, iterations = conjugate_gradients(product, b, lambda r: M * r, **options)
    assert len(calls) == len(iterations.residuals)  # a product an iteration: it is what costs
    return x, iterations


def test_it_ends_at_the_solution():
    A, b, M = system()
    x, iterations = iterate(A, b, M, tolerance=1e-13, max_iterations=60)
    assert iterations.converged
    torch.testing.assert_close(A @ x, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_step_is_the_best_of_its_krylov_space(count):
    """The smallest error in the norm of A over the span of M b, M A M b and so on."""
    A, b, M = system()
    x, iterations = iterate(A, b, M, tolerance=0.0, max_iterations=count)
    space = [M * b]
    for _ in range(count - 1):
        space.append(M * (A @ space[-1]))
    S = torch.linalg.qr(torch.stack(space, dim=1))[0]
    expected = S @ torch.linalg.solve(S.T @ A @ S, S.T @ b)
    torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-10)
    assert not iterations.converged
    r = b - A @ x
    assert iterations.residuals[-1] == pytest.approx(float(((M * r) @ r / ((M * b) @ b)).sqrt()), rel=1e-8)


def test_it_stops_relative_to_the_first_iteration():
    A, b, M = system()
    tolerance = 0.3
    _, iterations = iterate(A, b, M, tolerance=tolerance, max_iterations=60)
    *before, last = iterations.residuals
    assert iterations.converged
    assert last <= tolerance * before[0]
    assert all(each > tolerance * before[0] for each in before[1:])


def test_a_scale_of_the_labels_changes_nothing():
    A, b, M = system()
    x, iterations = iterate(A, b, M)
    large, again = iterate(A, 1e6 * b, M)
    torch.testing.assert_close(large, 1e6 * x)
    assert again.residuals == pytest.approx(iterations.residuals)


def test_a_perfect_preconditioner_leaves_nothing_to_do():
    A, b, _ = system()
    inverse = torch.linalg.inv(A)
    x, iterations = conjugate_gradients(lambda v: A @ v, b, lambda r: inverse @ r)
    assert iterations.converged
    assert iterations.residuals[0] < 1e-10
    torch.testing.assert_close(x, inverse @ b, rtol=1e-9, atol=1e-12)


def test_nothing_asked_is_nothing_done():
    A, b, M = system()
    x, iterations = iterate(A, 0 * b, M)
    assert not x.any()
    assert (iterations.residuals, iterations.converged) == ((), True)
