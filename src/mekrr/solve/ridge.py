"""Kernel ridge regression from one eigendecomposition: every ridge, leave-one-out, evidence and variance.

The matrix solved is G = K + ridge * diag(noise), where noise is n_t / weight_t for the sum embedding and 1 / weight_t
for the mean embedding. (The paper's lambda is multiplied by the number of structures instead.)
With S = diag(noise)^(-1/2) and S K S = Q diag(eigenvalues) Q', G = S^-1 Q diag(eigenvalues + ridge) Q' S^-1.
"""

from dataclasses import dataclass

import torch

from mekrr.linalg import least_squares, symmetric_eigh
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class RidgeFactor:
    """One eigendecomposition that serves all ridges.

    Attributes:
        eigenvalues: of S K S, ascending, negative rounding clipped to 0.
        Q: eigenvectors in columns.
        root_noise: square roots of the noise, one a structure.
    """

    eigenvalues: Float[Tensor, "structures"]
    Q: Float[Tensor, "structures structures"]
    root_noise: Float[Tensor, "structures"]

    @staticmethod
    def of(K: Float[Tensor, "structures structures"], noise: Float[Tensor, "structures"]) -> "RidgeFactor":
        """Factor K.

        Raises:
            ValueError: when K is not finite.
        """
        root = noise.sqrt()
        eigenvalues, Q = symmetric_eigh(K / root[:, None] / root[None, :])
        return RidgeFactor(eigenvalues.clamp_min(0.0), Q, root)

    def solve(
        self, y: Float[Tensor, "structures columns"], ridges: Float[Tensor, "ridges"]
    ) -> Float[Tensor, "ridges structures columns"]:
        """G^-1 y for each ridge."""
        projected = self.Q.T @ (y / self.root_noise[:, None])
        scaled = projected[None] / (self.eigenvalues[None, :, None] + ridges[:, None, None])
        return (self.Q @ scaled) / self.root_noise[None, :, None]

    def inverse_diagonal(self, ridges: Float[Tensor, "ridges"]) -> Float[Tensor, "ridges structures"]:
        """[G^-1]_tt for each ridge."""
        inverse = 1.0 / (self.eigenvalues[:, None] + ridges[None, :])
        return ((self.Q**2 @ inverse) / self.root_noise[:, None] ** 2).T

    def log_determinant(self, ridges: Float[Tensor, "ridges"]) -> Float[Tensor, "ridges"]:
        """Log det G for each ridge."""
        spectrum = torch.log(self.eigenvalues[None, :] + ridges[:, None]).sum(1)
        return spectrum + 2 * self.root_noise.log().sum()

    def half_inverse(self, ridge: float) -> Float[Tensor, "structures structures"]:
        """R with R' R = G^-1: the variance of a prediction is K(x, x) - |R k_x|^2."""
        return (self.Q / torch.sqrt(self.eigenvalues + ridge)).T / self.root_noise[None, :]


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

        beta_(-t) = beta - (H'H)^+ h_t e_t / (1 - lev_t) in weighted rows; where the leverage is 1, a true refit.

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
            rest = torch.arange(len(y)) != t
            beta_without[t] = least_squares(Hw[rest], yw[rest])[0] if bool(rest.any()) else 0.0
        return LinearPrior(H, beta, beta_without)


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Exact leave-one-structure-out for each ridge, the prior's refit included.

    Attributes:
        residuals: target minus the prediction of the fit without that structure, in units of the target.
        variances: predictive variance of that fit at unit amplitude, noise included.
    """

    residuals: Float[Tensor, "ridges structures"]
    variances: Float[Tensor, "ridges structures"]


def leave_one_out(
    factor: RidgeFactor, y: Float[Tensor, "structures"], prior: LinearPrior, ridges: Float[Tensor, "ridges"]
) -> LeaveOneOut:
    """r_t = [G^-1 (y - H beta_(-t))]_t / [G^-1]_tt.

    Added diagonal, feature scaling and hyperparameters are held fixed. For a fixed mean these are eqs. 5.10-5.12 of
    Rasmussen & Williams, Gaussian Processes for Machine Learning (2006).
    """
    solved = factor.solve(torch.cat([y[:, None], prior.H], dim=1), ridges)
    without_prior = solved[:, :, 0] - torch.einsum("rtp,tp->rt", solved[:, :, 1:], prior.beta_without)
    inverse_diagonal = factor.inverse_diagonal(ridges)
    return LeaveOneOut(without_prior / inverse_diagonal, 1.0 / inverse_diagonal)


def log_evidence(
    factor: RidgeFactor, residual: Float[Tensor, "structures"], ridges: Float[Tensor, "ridges"]
) -> Float[Tensor, "ridges"]:
    """Log marginal likelihood of y - H beta with the amplitude y' G^-1 y / N profiled out.

    Rasmussen & Williams 2006, eq. 2.30, at the maximum over a common factor of kernel and noise.
    """
    N = len(residual)
    quadratic = factor.solve(residual[:, None], ridges)[:, :, 0] @ residual
    amplitude = (quadratic / N).clamp_min(torch.finfo(torch.float64).tiny)
    return -0.5 * (N * torch.log(2 * torch.pi * amplitude) + factor.log_determinant(ridges) + N)
