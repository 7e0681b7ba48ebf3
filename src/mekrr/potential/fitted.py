"""What a fit leaves behind: everything that prediction, saving and the report read."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from mekrr.features import Environments, Scaler
from mekrr.kernels import Expansion, PointwiseKernel, gram_diagonal, make_kernel
from mekrr.prior import Prior
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted potential without its backbone.

    Attributes:
        training: raw environments of the training structures, in the backbone's dtype.
        scaler: standardisation.
        dual_coef: c in E(x) = prior(x) + sum_t c_t K(x, t).
        half_inverse: R with R' R = G^-1.
        energies: DFT energies of the training structures, eV.
        loo_residuals: leave-one-out residuals, eV (DFT minus predicted total energy).
        prior: fitted prior mean.
        baseline: the backbone's energy plus shifts, whatever the prior; None when it has no energy.
        reference: mean energy per atom by composition fit, for comparison.
        layers: names.
        kernel_name: of the pointwise kernel.
        embedding: "sum" or "mean".
        length_scale: chosen.
        species_weight: chosen.
        ridge: chosen.
        amplitude: calibrated variance scale; var E = amplitude * (K(x, x) + noise - |R k_x|^2).
        facts: JSON-able record: options, backbone, data, leave-one-out errors, search, seconds, versions, warnings.
    """

    training: Environments
    scaler: Scaler
    dual_coef: Float[Tensor, "structures"]
    half_inverse: Float[Tensor, "structures structures"]
    energies: Float[Tensor, "structures"]
    loo_residuals: Float[Tensor, "structures"]
    prior: Prior
    baseline: Prior | None
    reference: Prior
    layers: tuple[str, ...]
    kernel_name: str
    embedding: str
    length_scale: float
    species_weight: float
    ridge: float
    amplitude: float
    facts: dict[str, Any]

    @property
    def kernel(self) -> PointwiseKernel:
        """The pointwise kernel."""
        return make_kernel(self.kernel_name, self.length_scale)

    @cached_property
    def standardised(self) -> Environments:
        """Training environments as the kernel sees them."""
        return self.scaler(self.training)

    @cached_property
    def expansion(self) -> Expansion:
        """The kernel part of the energy."""
        return Expansion.of_dual(self.standardised, self.dual_coef, self.kernel, self.species_weight, self.embedding)

    @property
    def known_species(self) -> set[int]:
        """Elements seen in training."""
        return set(torch.unique(self.training.species).tolist())

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
