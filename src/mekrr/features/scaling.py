"""Standardisation of features on the training atoms."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments
from mekrr.typing import Float, Tensor

RELATIVE_FLOOR = 1e-3  # a channel that hardly varies would only amplify rounding


@dataclass(frozen=True, eq=False)
class Scaler:
    """h -> (h - mean) / scale, in float64.

    Attributes:
        mean: over the training atoms.
        scale: standard deviation over the training atoms, not below 1e-3 of the largest in the same layer.
    """

    mean: Float[Tensor, "features"]
    scale: Float[Tensor, "features"]

    @staticmethod
    def fit(features: Float[Tensor, "atoms features"], widths: Sequence[int]) -> "Scaler":
        """Mean and standard deviation of each channel.

        Args:
            features: of all training atoms.
            widths: number of channels of each concatenated layer.
        """
        h = features.double()
        deviation = h.std(dim=0, correction=0)
        floors = [layer.max().clamp_min(1e-12) * RELATIVE_FLOOR for layer in deviation.split(list(widths))]
        floor = torch.cat([value.expand(width) for value, width in zip(floors, widths, strict=True)])
        return Scaler(h.mean(dim=0), torch.maximum(deviation, floor))

    def __call__(self, environments: Environments) -> Environments:
        """Standardised environments, float64."""
        return environments.with_features((environments.features.double() - self.mean) / self.scale)

    def derivative(self, derivative: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows features"]:
        """Derivative of the standardised features from one of the raw ones, float64."""
        return derivative.double() / self.scale

    def pull_back(self, gradient: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms features"]:
        """Derivative with respect to the raw features from the one with respect to the standardised."""
        return gradient / self.scale
