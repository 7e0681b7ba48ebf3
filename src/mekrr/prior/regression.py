"""Weighted least squares with every refit that leave-one-out needs."""

from dataclasses import dataclass

import torch

from mekrr.linalg import least_squares
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class LinearPrior:
    """The part of the prior that is fitted by weighted least squares, y ~ H beta, with what leave-one-out needs of it.

    Attributes:
        H: design matrix.
        beta: minimum-norm coefficients of the fit to all structures.
        beta_without: row t: coefficients of the fit without structure t.
    """

    H: Float[Tensor, "structures columns"]
    beta: Float[Tensor, "columns"]
    beta_without: Float[Tensor, "structures columns"]

    @staticmethod
    def fit(
        H: Float[Tensor, "structures columns"],
        y: Float[Tensor, "structures"],
        row_weight: Float[Tensor, "structures"],
    ) -> "LinearPrior":
        """Fit and refit without each structure.

        beta_(-t) = beta - (H'H)^+ h_t e_t / (1 - lev_t) in weighted rows (Sherman-Morrison; Cook & Weisberg, Residuals
        and Influence in Regression, 1982, eq. 2.2.8); where the leverage is 1, a true refit.

        Args:
            H: design matrix.
            y: targets, eV.
            row_weight: each row's residual is multiplied by it.
        """
        Hw, yw = H * row_weight[:, None], y * row_weight
        beta, inverse = least_squares(Hw, yw)
        leverage = torch.einsum("tp,pq,tq->t", Hw, inverse, Hw)
        residual = yw - Hw @ beta
        safe = (1.0 - leverage).clamp_min(1e-9)
        beta_without = beta[None, :] - (Hw @ inverse) * (residual / safe)[:, None]
        for t in torch.nonzero(leverage > 1.0 - 1e-9).flatten().tolist():
            rest = torch.arange(len(y), device=y.device) != t
            beta_without[t] = least_squares(Hw[rest], yw[rest])[0] if bool(rest.any()) else 0.0
        return LinearPrior(H, beta, beta_without)
