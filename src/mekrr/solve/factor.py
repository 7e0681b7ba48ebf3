"""Factor once, then every ridge: solutions, leave-one-out, evidence and variance read the same object."""

from dataclasses import dataclass

import torch

from mekrr.linalg import symmetric_eigh
from mekrr.solve.equations import NormalEquations
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class Factor:
    """One eigendecomposition A = V diag(eigenvalues) V' for all ridges, with the equations it is of.

    Attributes:
        equations: whose Gram matrix is factored.
        eigenvalues: ascending, clipped at 0.
        V: eigenvectors in columns.
    """

    equations: NormalEquations
    eigenvalues: Float[Tensor, "groups"]
    V: Float[Tensor, "groups groups"]

    @staticmethod
    def of(equations: NormalEquations) -> "Factor":
        """Factor.

        Raises:
            ValueError: when the Gram matrix is not finite.
        """
        gram = equations.total
        eigenvalues, V = symmetric_eigh((gram + gram.T) / 2)
        return Factor(equations, eigenvalues.clamp_min(0.0), V)

    @property
    def rounding(self) -> float:
        """What eigenvalues are uncertain by: a smaller ridge means nothing."""
        return float(torch.finfo(self.eigenvalues.dtype).eps * self.eigenvalues[-1])

    def solve(self, moments: Float[Tensor, "groups"], ridge: float) -> Float[Tensor, "groups"]:
        """(A + ridge)^-1 moments."""
        return self.V @ ((self.V.T @ moments) / (self.eigenvalues + ridge))

    def damped(self, ridges: Float[Tensor, "ridges"]) -> Float[Tensor, "ridges groups"]:
        """1 / (eigenvalues + ridge)."""
        return 1.0 / (self.eigenvalues + ridges[:, None])

    def log_evidence(
        self,
        prior: Float[Tensor, "priors columns"],
        ridges: Float[Tensor, "ridges"],
        misfit: Float[Tensor, "priors ridges"],
        log_weight: float,
        rows: int,
    ) -> Float[Tensor, "priors ridges"]:
        """Log marginal likelihood of the rows, with the amplitude profiled out.

        Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), eq. 2.30, at the maximum over a common
        factor of kernel and noise, for G = psi psi' + ridge / w. The quadratic form is the objective at its minimum,
        y' G^-1 y = (misfit + ridge |c|^2) / ridge, which does not cancel where y' W y - b' (A + ridge)^-1 b does, and
        log det G = sum log(1 + eigenvalue / ridge) + sum log(ridge / w) (matrix determinant lemma).

        Args:
            prior: combinations of the columns that are fitted.
            ridges: to try.
            misfit: sum of weight times squared residual of the fit.
            log_weight: sum over rows of log w.
            rows: how many.
        """
        projected = (self.V.T @ self.equations.total_moments) @ prior.T
        size = torch.einsum("lm,mp->pl", self.damped(ridges).square(), projected.square())
        quadratic = misfit / ridges + size
        amplitude = (quadratic / rows).clamp_min(torch.finfo(torch.float64).tiny)
        log_determinant = torch.log1p(self.eigenvalues / ridges[:, None]).sum(1) + rows * ridges.log() - log_weight
        return -0.5 * (rows * torch.log(2 * torch.pi * amplitude) + log_determinant + rows)
