import pytest
import torch

from mekrr.errors import NotPositiveDefiniteError
from mekrr.linalg import (
    add_diagonal,
    cholesky_with_jitter,
    inverse_root,
    invert_lower,
    least_squares,
    solve_ridge,
    symmetric_eigh,
)


def symmetric(values, seed=0):
    """A matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator))[0]
    K = (Q * torch.tensor(values, dtype=torch.float64)) @ Q.T
    return (K + K.T) / 2


@pytest.mark.parametrize(("smallest", "jitter"), [(1.0, 1e-10), (-5e-9, 1e-8), (-5e-7, 1e-6)])
def test_jitter_grows_until_it_is_enough(smallest, jitter):
    K = 7.0 * symmetric([smallest, 1, 1, 1, 1, 1])
    L, found = cholesky_with_jitter(K, 1e-10)
    assert found == pytest.approx(jitter * float(K.diagonal().mean()))
    torch.testing.assert_close(L @ L.T, add_diagonal(K, found), rtol=1e-12, atol=1e-13)
    assert torch.equal(L, L.tril())


def test_an_indefinite_matrix_is_refused_with_a_remedy():
    K = symmetric([-1e-5, 1, 1])
    with pytest.raises(
        NotPositiveDefiniteError, match=r"the 3 functions .* dependent \(jitter up to 1e-06 .*--inducing"
    ):
        cholesky_with_jitter(K, 1e-10)
    assert cholesky_with_jitter(K, 1e-10, 1e-4)[1] > 1e-5


def test_a_diagonal_is_added_to_a_copy():
    K = symmetric([1, 2])
    before = K.clone()
    torch.testing.assert_close(add_diagonal(K, 3.0), before + 3 * torch.eye(2, dtype=torch.float64))
    assert torch.equal(K, before)


def test_eigenvalues_ascend_and_what_is_not_finite_is_refused():
    values, V = symmetric_eigh(symmetric([3, 1, 2]))
    assert values.tolist() == pytest.approx([1, 2, 3])
    torch.testing.assert_close((V * values) @ V.T, symmetric([3, 1, 2]))
    with pytest.raises(ValueError, match=r"the \(2, 2\) kernel matrix holds NaN or infinite values"):
        symmetric_eigh(torch.full((2, 2), torch.inf, dtype=torch.float64))


def test_least_squares_is_the_minimum_norm_solution():
    generator = torch.Generator().manual_seed(0)
    H = torch.randn(6, 2, dtype=torch.float64, generator=generator)
    H = torch.cat([H, H[:, :1] * 2], dim=1)  # rank 2 of 3
    y = torch.randn(6, dtype=torch.float64, generator=generator)
    beta, inverse = least_squares(H, y)
    torch.testing.assert_close(beta, torch.linalg.pinv(H) @ y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(inverse, torch.linalg.pinv(H.T @ H, hermitian=True), rtol=1e-8, atol=1e-10)


def test_nothing_to_fit_is_fitted():
    beta, inverse = least_squares(torch.zeros(3, 0, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    assert (beta.shape, inverse.shape) == ((0,), (0, 0))


def test_the_inverse_of_a_triangle():
    L = symmetric([1, 2, 3]).tril()
    torch.testing.assert_close(invert_lower(L) @ L, torch.eye(3, dtype=torch.float64))


def test_the_inverse_root_also_where_rounding_leaves_no_cholesky_factor():
    B = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    R = inverse_root(B @ B.T)
    torch.testing.assert_close(
        R.T @ R @ (torch.eye(5, dtype=torch.float64) + B @ B.T), torch.eye(5, dtype=torch.float64)
    )
    few = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A = 1e19 * few @ few.T  # of rank 10: thirty directions are left open, but for rounding
    assert int(torch.linalg.cholesky_ex(add_diagonal(A, 1.0))[1]) > 0
    root = inverse_root(A)
    variances = torch.linalg.eigvalsh(root.T @ root)
    assert bool(((variances > -1e-12) & (variances < 1 + 1e-12)).all())
    inside = few / few.norm(dim=0)
    assert float((root @ inside).square().sum(0).max()) < 1e-6


@pytest.mark.parametrize("scale", [1.0, 1e19])
def test_a_ridge_is_solved_also_where_rounding_leaves_no_cholesky_factor(scale):
    few = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A, b = scale * few @ few.T, few @ torch.ones(10, dtype=torch.float64)
    assert (int(torch.linalg.cholesky_ex(add_diagonal(A, 1.0))[1]) > 0) is (scale > 1)
    inner = scale * few.T @ few + torch.eye(10, dtype=torch.float64)
    expected = few @ torch.linalg.solve(inner, torch.ones(10, dtype=torch.float64))  # push-through identity
    torch.testing.assert_close(few.T @ solve_ridge(A, 1.0, b) * scale, few.T @ expected * scale, rtol=1e-6, atol=1e-6)
