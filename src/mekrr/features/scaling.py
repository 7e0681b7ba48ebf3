"""Standardisation of features on the training atoms."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments
from mekrr.typing import Float, Tensor

AT_ONCE = 50_000  # atoms whose features are in memory in float64
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
        mean, deviation = _moments(features)
        floors = [layer.max().clamp_min(1e-12) * RELATIVE_FLOOR for layer in deviation.split(list(widths))]
        floor = torch.cat([value.expand(width) for value, width in zip(floors, widths, strict=True)])
        return Scaler(mean, torch.maximum(deviation, floor))

    def __call__(self, environments: Environments) -> Environments:
        """Standardised environments, float64."""
        return environments.with_features(self.features(environments.features))

    def features(self, raw: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms features"]:
        """Standardised features, float64."""
        return (raw.double() - self.mean) / self.scale

    def derivative(self, derivative: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows features"]:
        """Derivative of the standardised features from one of the raw ones, float64."""
        return derivative.double() / self.scale

    def pull_back(self, gradient: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms features"]:
        """Derivative with respect to the raw features from the one with respect to the standardised."""
        return gradient / self.scale


def _moments(features: Float[Tensor, "atoms features"]) -> tuple[Float[Tensor, "features"], Float[Tensor, "features"]]:
    """Mean and standard deviation, float64; of very many atoms some at a time, in two passes that do not cancel."""
    if len(features) <= AT_ONCE:
        h = features.double()
        return h.mean(dim=0), h.std(dim=0, correction=0)
    parts, n = features.split(AT_ONCE), len(features)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / n
    squares = torch.stack([(part.double() - mean).square_().sum(0) for part in parts]).sum(0)
    return mean, (squares / n).sqrt()
