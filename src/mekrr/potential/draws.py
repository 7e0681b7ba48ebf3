"""Draws of the posterior as functions of features and of gradients in the weights."""

from dataclasses import dataclass

from mekrr.kernels import PriorDraws
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class PosteriorDraws:
    """Differences of draws from the mean, at unit amplitude: sqrt(1 - s) (path + phi . correction) + T . change.

    A draw is a path of the prior, corrected to a draw of the posterior at the centres of the basis (pathwise
    conditioning: Wilson et al., J. Mach. Learn. Res. 22, 105, 2021, eq. 12).

    Attributes:
        paths: of the prior on features.
        corrections: coefficients of the basis functions.
        changes: weights of T, for each element; without elements where there is no tangent part.
    """

    paths: PriorDraws
    corrections: Float[Tensor, "groups draws"]
    changes: Float[Tensor, "draws elements width"]
