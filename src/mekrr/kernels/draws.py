"""Draws of the prior as functions of one atom's features, with their gradients.

A component's draw is m(h) . weights with the kernel's random features m. With amplitudes a of all pairs and b of pairs
of one species it is sqrt(a) f_0 + sqrt(b) f_z, one f_z for each species, whose covariance is k [a + b (z = z')];
components are independent and add up.
"""

from dataclasses import dataclass, field

import torch

from mekrr.kernels.pointwise import FeatureMap
from mekrr.kernels.structure import StructureKernel
from mekrr.typing import Float, Int, Tensor


@dataclass(eq=False)
class PriorDraws:
    """Several draws of the prior at unit amplitude.

    Attributes:
        kernel: between structures, sum embedding.
        like: a tensor of features; draws have its width and device.
        n_draws: number of functions.
        seed: the same seed gives the same functions.
    """

    kernel: StructureKernel
    like: Float[Tensor, "atoms features"]
    n_draws: int
    seed: int = 0
    _weights: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.maps: list[FeatureMap] = [c.pointwise.feature_map(self.like, generator) for c in self.kernel.components]

    def values(
        self, features: Float[Tensor, "atoms features"], species: Int[Tensor, "atoms"]
    ) -> Float[Tensor, "atoms draws"]:
        """f(h_i) of each draw."""
        found = features.new_zeros(len(features), self.n_draws)
        for index, feature_map in enumerate(self.maps):
            mapped = feature_map(features)
            for z in torch.unique(species).tolist():
                found[species == z] += mapped[species == z] @ self.weights(index, int(z))
        return found

    def slopes(
        self, features: Float[Tensor, "atoms features"], species: Int[Tensor, "atoms"], draw: int
    ) -> Float[Tensor, "atoms features"]:
        """df/dh of one draw."""
        found = torch.zeros_like(features)
        for index, feature_map in enumerate(self.maps):
            for z in torch.unique(species).tolist():
                rows = species == z
                found[rows] += feature_map.slopes(features[rows], self.weights(index, int(z))[None, :, draw])
        return found

    def weights(self, index: int, z: int) -> Float[Tensor, "maps draws"]:
        """Weights of a component's random features for one species."""
        component = self.kernel.components[index]
        shared, own = component.all_pairs**0.5, component.same_species**0.5
        return shared * self._drawn(index, 0) + own * self._drawn(index, z)

    def _drawn(self, index: int, z: int) -> Float[Tensor, "maps draws"]:
        """Weights shared by all species (z = 0), or those of one."""
        if (index, z) not in self._weights:
            size = self.maps[index].frequencies.shape[1]
            generator = torch.Generator().manual_seed((self.seed * 1000 + z + 1) * 1000 + index)
            drawn = torch.randn(size, self.n_draws, dtype=torch.float64, generator=generator)
            self._weights[index, z] = drawn.to(self.like.device)
        return self._weights[index, z]
