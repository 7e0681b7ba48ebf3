"""Draws of the prior as functions of one atom's features, with their gradients.

A Gaussian kernel's draws are sums of random Fourier features (Rahimi & Recht, NIPS 2007); a linear kernel's are random
planes. With a species weight w a draw is sqrt(1 - w) f_0 + sqrt(w) f_z, one f_z for each species.
"""

from dataclasses import dataclass, field

import torch

from mekrr.kernels.pointwise import GaussianKernel, LinearKernel, PointwiseKernel
from mekrr.typing import Float, Int, Tensor

FOURIER_FEATURES = 2048


@dataclass(eq=False)
class PriorPaths:
    """Several draws of the prior at unit amplitude.

    Attributes:
        kernel: gaussian or linear.
        species_weight: w.
        n_features: D.
        n_draws: number of functions.
        seed: the same seed gives the same functions.
    """

    kernel: PointwiseKernel
    species_weight: float
    n_features: int
    n_draws: int
    seed: int = 0
    _weights: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, GaussianKernel | LinearKernel):
            raise ValueError(
                f"deviations of forces are there for the gaussian and linear kernels, not {self.kernel.name}"
            )
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.n_features, FOURIER_FEATURES)
        self.frequencies = torch.randn(shape, dtype=torch.float64, generator=generator) / self.kernel.length_scale
        self.phases = 2 * torch.pi * torch.rand(FOURIER_FEATURES, dtype=torch.float64, generator=generator)

    def values(
        self, features: Float[Tensor, "atoms features"], species: Int[Tensor, "atoms"]
    ) -> Float[Tensor, "atoms draws"]:
        """f(h_i) of each draw."""
        phi = self._linear(features) if isinstance(self.kernel, LinearKernel) else self._cosines(features)
        found = torch.zeros(len(features), self.n_draws, dtype=torch.float64)
        for z in torch.unique(species).tolist():
            found[species == z] = phi[species == z] @ self._mixed(int(z))
        return found

    def slopes(
        self, features: Float[Tensor, "atoms features"], species: Int[Tensor, "atoms"], draw: int
    ) -> Float[Tensor, "atoms features"]:
        """df/dh of one draw."""
        found = torch.zeros_like(features)
        for z in torch.unique(species).tolist():
            weights = self._mixed(int(z), slice(draw, draw + 1))[:, 0]
            rows = species == z
            if isinstance(self.kernel, LinearKernel):
                found[rows] = weights / (self.kernel.length_scale * self.n_features**0.5)
            else:
                sines = torch.sin(features[rows] @ self.frequencies + self.phases)
                found[rows] = -((2 / FOURIER_FEATURES) ** 0.5) * (sines * weights) @ self.frequencies.T
        return found

    def _cosines(self, features: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms fourier"]:
        return (2 / FOURIER_FEATURES) ** 0.5 * torch.cos(features @ self.frequencies + self.phases)

    def _linear(self, features: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms features"]:
        return features / (self.kernel.length_scale * self.n_features**0.5)

    def _mixed(self, z: int, draws: slice = slice(None)) -> Float[Tensor, "basis draws"]:
        """Weights of the basis functions for one species."""
        w = self.species_weight
        return (1 - w) ** 0.5 * self._drawn(0)[:, draws] + w**0.5 * self._drawn(z)[:, draws]

    def _drawn(self, z: int) -> Float[Tensor, "basis draws"]:
        """Weights shared by all species (0), or those of one."""
        if z not in self._weights:
            size = self.n_features if isinstance(self.kernel, LinearKernel) else FOURIER_FEATURES
            generator = torch.Generator().manual_seed(self.seed * 1000 + z + 1)
            self._weights[z] = torch.randn(size, self.n_draws, dtype=torch.float64, generator=generator)
        return self._weights[z]
