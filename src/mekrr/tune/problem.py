"""What leave-one-out is asked to choose between: features, priors and the values of each hyperparameter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.features import Environments
from mekrr.solve import LinearPrior
from mekrr.tune.criteria import BALANCED
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class PriorCandidate:
    """A prior's share of the regression problem.

    Attributes:
        name: of the prior.
        target: energies minus the fixed part of the prior, in the embedding's units (eV, or eV/atom for mean).
        linear: the fitted part.
        safe: whether it falls back on a physical model far from the data.
    """

    name: str
    target: Float[Tensor, "structures"]
    linear: LinearPrior
    safe: bool = False

    @property
    def residual(self) -> Float[Tensor, "structures"]:
        """What the kernel has to fit."""
        return self.target - self.linear.H @ self.linear.beta


@dataclass(frozen=True, eq=False)
class FeatureCandidate:
    """Standardised environments of one choice of layers.

    Attributes:
        layers: names.
        environments: of the training structures, float64.
    """

    layers: tuple[str, ...]
    environments: Environments


MEDIAN: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Values to choose from; a single value is a fixed one.

    Attributes:
        kernel: name of the pointwise kernel.
        embedding: "sum" or "mean".
        length_scales: in units of sqrt(features), longest first; a ladder with ratio sqrt(2) costs one pass. MEDIAN
            stands for the median distance between the environments of each choice of layers.
        species_weights: ascending.
        ridges: relative to mean(diag K) / mean(noise), ascending.
        criterion: one of CRITERION_NAMES.
        length_scale_fixed: length_scales are absolute values by the user.
        ridge_fixed: ridges are absolute values by the user.
    """

    kernel: str = "gaussian"
    embedding: str = "sum"
    length_scales: tuple[float, ...] = tuple(8.0 / 2 ** (rung / 2) for rung in range(8))
    species_weights: tuple[float, ...] = tuple(w / 10 for w in range(11))
    ridges: tuple[float, ...] = tuple(10.0 ** (-12 + 0.5 * step) for step in range(25))
    criterion: str = BALANCED
    length_scale_fixed: bool = False
    ridge_fixed: bool = False


@dataclass(frozen=True)
class Trial:
    """One point of the surface: a choice of everything with its ridge path.

    Attributes:
        layers: of the features.
        prior: its name.
        length_scale: in units of the standardised features.
        species_weight: w.
        ridges: absolute values, ascending; those below the rounding of K are left out.
        scores: of the criterion, larger is better.
        loo_rmse: leave-one-out error in meV/atom for each ridge.
        loo_mae: the same, mean absolute.
        evidence: log evidence for each ridge; empty for the sparse solver, whose probed rows have none.
        force_weight: of the sparse solver, Angstrom^2; None without forces.
        loo_forces: leave-one-out force error in meV/Angstrom for each ridge, mean over structures of each one's root
            mean square; empty without forces.
    """

    layers: tuple[str, ...]
    prior: str
    length_scale: float
    species_weight: float
    ridges: tuple[float, ...]
    scores: tuple[float, ...]
    loo_rmse: tuple[float, ...]
    loo_mae: tuple[float, ...]
    evidence: tuple[float, ...] = ()
    force_weight: float | None = None
    loo_forces: tuple[float, ...] = ()

    @property
    def best(self) -> int:
        """Index of the best ridge."""
        return max(range(len(self.scores)), key=self.scores.__getitem__)

    @property
    def score(self) -> float:
        """The best score along the ridge path."""
        return self.scores[self.best]

    @property
    def ridge(self) -> float:
        """The best ridge."""
        return self.ridges[self.best]


def median_distance(h: Float[Tensor, "atoms features"], sample: int = 2000) -> float:
    """The median distance between a sample of environments that differ: the median heuristic for the length scale.

    Args:
        h: standardised features.
        sample: atoms looked at, drawn with a fixed seed.
    """
    chosen = torch.randperm(len(h), generator=torch.Generator().manual_seed(0))[:sample]
    distances = torch.pdist(h[chosen])
    return float(distances[distances > 0].median()) if bool((distances > 0).any()) else 1.0


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest score."""
    return max(trials, key=lambda trial: trial.score)
