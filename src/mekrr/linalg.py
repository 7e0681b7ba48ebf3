"""Dense linear algebra in float64, used by every solver."""

import torch

from mekrr.typing import Float, Tensor


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
