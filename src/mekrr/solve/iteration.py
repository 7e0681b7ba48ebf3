"""Preconditioned conjugate gradients, stopped by a measure that a large mean energy cannot rule."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mekrr.typing import Float, Tensor

TOLERANCE = 0.15  # of the residual that the preconditioner's solution leaves; errors on real data hardly change below
MAX_ITERATIONS = 12

Product = Callable[[Float[Tensor, "groups"]], Float[Tensor, "groups"]]


@dataclass(frozen=True)
class Iterations:
    """How the conjugate gradients went.

    Attributes:
        residuals: in the norm of the preconditioner, relative to the start, after each iteration.
        converged: whether the last is below the tolerance.
    """

    residuals: tuple[float, ...]
    converged: bool


def conjugate_gradients(
    product: Product,
    right_hand_side: Float[Tensor, "groups"],
    precondition: Product,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[Float[Tensor, "groups"], Iterations]:
    """Preconditioned conjugate gradients from zero (Saad, Iterative Methods for Sparse Linear Systems, alg. 9.1).

    Args:
        product: with the symmetric positive definite matrix.
        right_hand_side: b.
        precondition: product with the inverse of the preconditioner.
        tolerance: of the residual in the preconditioner's norm, relative to that after the first iteration, which
            stands for the preconditioner's own solution: the labels are no measure, a large mean energy would rule it.
        max_iterations: at most.
    """
    x = torch.zeros_like(right_hand_side)
    r = right_hand_side.clone()
    z = precondition(r)
    p, rz = z.clone(), float(r @ z)
    start = rz
    residuals: list[float] = []
    while len(residuals) < max_iterations and rz > 0 and not _small(residuals, tolerance):
        Ap = product(p)
        step = rz / float(p @ Ap)
        x, r = x + step * p, r - step * Ap
        z = precondition(r)
        before, rz = rz, float(r @ z)
        p = z + (rz / before) * p
        residuals.append((max(rz, 0.0) / start) ** 0.5)
    return x, Iterations(tuple(residuals), rz <= 0 or _small(residuals, tolerance))


def _small(residuals: list[float], tolerance: float) -> bool:
    return len(residuals) > 1 and residuals[-1] <= tolerance * residuals[0]
