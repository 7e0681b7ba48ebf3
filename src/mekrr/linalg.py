"""Dense linear algebra in float64."""

import torch

from mekrr.errors import NotPositiveDefiniteError
from mekrr.threads import threads
from mekrr.typing import Float, Tensor

LARGEST_JITTER = 1e-6  # relative to the mean diagonal
ALONE = 1500  # a smaller matrix is decomposed by one thread: several spend their time waiting for one another


def symmetric_eigh(K: Float[Tensor, "n n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n"]]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix.

    Raises:
        ValueError: when K holds NaN or infinite values.
    """
    if not bool(torch.isfinite(K).all()):
        raise ValueError(
            f"the {tuple(K.shape)} kernel matrix holds NaN or infinite values; look for infinite features or a "
            "length scale that is too small"
        )
    with threads(1 if len(K) < ALONE else torch.get_num_threads()):
        return torch.linalg.eigh(K)


def least_squares(H: Float[Tensor, "n p"], y: Float[Tensor, "n"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p p"]]:
    """Minimum-norm least-squares coefficients and the pseudo-inverse of H'H.

    Directions whose singular value is below n * eps of the largest count as undetermined.
    """
    if H.shape[1] == 0:
        return y.new_zeros(0), y.new_zeros(0, 0)
    U, s, Vh = torch.linalg.svd(H, full_matrices=False)
    keep = s > max(H.shape) * torch.finfo(H.dtype).eps * s.max().clamp_min(torch.finfo(H.dtype).tiny)
    inverse = torch.where(keep, 1.0 / s.clamp_min(torch.finfo(H.dtype).tiny), 0.0)
    beta = Vh.T @ (inverse * (U.T @ y))
    return beta, (Vh.T * inverse**2) @ Vh


def cholesky_with_jitter(
    K: Float[Tensor, "n n"], first: float, largest: float = LARGEST_JITTER
) -> tuple[Float[Tensor, "n n"], float]:
    """Lower Cholesky factor of K with the smallest jitter of a ladder that succeeds, and that jitter.

    Args:
        K: symmetric, positive semidefinite but for rounding.
        first: jitter tried first, relative to the mean diagonal; each next one is ten times larger.
        largest: the last one, likewise.

    Raises:
        NotPositiveDefiniteError: when none does.
    """
    unit = float(K.diagonal().mean())
    relative = first
    while relative <= largest * 1.001:
        L, info = torch.linalg.cholesky_ex(add_diagonal(K, relative * unit))
        if int(info) == 0:
            return L, relative * unit
        relative *= 10
    raise NotPositiveDefiniteError(
        f"the {len(K)} functions of the basis are numerically dependent (jitter up to {largest:g} of the diagonal did "
        "not help); take fewer with --inducing, or a shorter --length-scale"
    )


def add_diagonal(K: Float[Tensor, "n n"], value: float) -> Float[Tensor, "n n"]:
    """K + value times the identity."""
    found = K.clone()
    found.diagonal().add_(value)
    return found


def invert_lower(L: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """L^-1 of a lower triangular matrix."""
    return torch.linalg.solve_triangular(L, torch.eye(len(L), dtype=L.dtype, device=L.device), upper=False)


def inverse_root(A: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """R with R' R = (1 + A)^-1, for a positive semidefinite A.

    By a Cholesky factor, whose inverse it is; where rounding has made 1 + A indefinite, as it does of an A beyond
    1e16, by eigenvectors, which costs more.
    """
    M = add_diagonal(A, 1.0)
    L, info = torch.linalg.cholesky_ex(M)
    if int(info) == 0:
        return invert_lower(L)
    eigenvalues, V = symmetric_eigh((M + M.T) / 2)
    return (V * eigenvalues.clamp_min(1.0).rsqrt()).T


def solve_ridge(A: Float[Tensor, "n n"], ridge: float, b: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """(A + ridge)^-1 b, for a positive semidefinite A; by eigenvectors where rounding leaves no Cholesky factor."""
    L, info = torch.linalg.cholesky_ex(add_diagonal(A, ridge))
    if int(info) == 0:
        return torch.cholesky_solve(b[:, None], L)[:, 0]
    eigenvalues, V = symmetric_eigh((A + A.T) / 2)
    return V @ ((V.T @ b) / (eigenvalues.clamp_min(0.0) + ridge))
