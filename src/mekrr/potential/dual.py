"""The solution of the exact solver: one coefficient a training structure."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from mekrr.features import Environments, Scaler
from mekrr.kernels import Expansion, PointwiseKernel, gram_diagonal
from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class DualModel:
    """E(x) = prior(x) + sum_t c_t K(x, t) over the training structures t.

    Attributes:
        training: raw environments of the training structures, in the backbone's dtype.
        scaler: standardisation.
        kernel: pointwise.
        species_weight: w.
        embedding: "sum" or "mean".
        ridge: of the solution.
        dual_coef: c.
        half_inverse: R with R' R = G^-1.
        amplitude: calibrated variance scale; var E = amplitude * (K(x, x) + noise - |R k_x|^2).
    """

    solver: ClassVar[str] = "exact"
    training: Environments
    scaler: Scaler
    kernel: PointwiseKernel
    species_weight: float
    embedding: str
    ridge: float
    dual_coef: Float[Tensor, "structures"]
    half_inverse: Float[Tensor, "structures structures"]
    amplitude: float

    @cached_property
    def expansion(self) -> Expansion:
        """The kernel part of the energy."""
        x = self.scaler(self.training)
        return Expansion.of_dual(x, self.dual_coef, self.kernel, self.species_weight, self.embedding)

    def energy_deviation(
        self, x: Environments, cross: Float[Tensor, "structures groups"]
    ) -> Float[Tensor, "structures"]:
        """Calibrated standard deviation of the total energy, eV.

        Args:
            x: standardised environments.
            cross: what the expansion gives for them.
        """
        n = x.n_atoms.double()
        scale, noise = (torch.ones_like(n), n) if self.embedding == "sum" else (n, torch.ones_like(n))
        own = gram_diagonal(x, self.kernel, self.embedding, self.species_weight)
        explained = ((cross / scale[:, None]) @ self.half_inverse.T).square().sum(1)
        variance = self.amplitude * ((own - explained).clamp_min(0.0) + self.ridge * noise)
        return variance.sqrt() * scale

    def noise(self, n_atoms: Int[Tensor, "structures"]) -> Float[Tensor, "structures"]:
        """Variance of an energy label at unit amplitude; the mean embedding's noise is one of energies per atom."""
        n = n_atoms.double()
        return self.ridge * (n if self.embedding == "sum" else n.square())

    def posterior_factors(
        self, cross: Float[Tensor, "structures groups"]
    ) -> tuple[Float[Tensor, "structures groups"], Float[Tensor, "structures none"]]:
        """P and Q with K(x, y) - p_x . p_y + q_x . q_y the covariance of total energies, at unit amplitude.

        Q has no columns; K is n_x n_y times the kernel for the mean embedding.

        Args:
            cross: what the expansion gives for the structures.
        """
        explained = cross @ self.half_inverse.T
        return explained, explained[:, :0]

    def tensors(self) -> dict[str, Tensor]:
        """For the model file."""
        return {
            "features": self.training.features,
            "species": self.training.species,
            "n_atoms": self.training.n_atoms,
            "dual_coef": self.dual_coef,
            "half_inverse": self.half_inverse,
        }

    def numbers(self) -> dict[str, Any]:
        """For the model file's header."""
        return {"ridge": self.ridge, "amplitude": self.amplitude}

    @staticmethod
    def restore(
        tensors: dict[str, Tensor],
        numbers: dict[str, Any],
        scaler: Scaler,
        kernel: PointwiseKernel,
        species_weight: float,
        embedding: str,
    ) -> "DualModel":
        """From a model file."""
        return DualModel(
            Environments(tensors["features"], tensors["species"], tensors["n_atoms"]),
            scaler,
            kernel,
            species_weight,
            embedding,
            numbers["ridge"],
            tensors["dual_coef"],
            tensors["half_inverse"],
            numbers["amplitude"],
        )
