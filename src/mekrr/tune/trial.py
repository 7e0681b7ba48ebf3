"""One point of the search with its ridge path."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.prior import PriorColumns
from mekrr.solve import Residuals
from mekrr.tune.criteria import Judged, score
from mekrr.typing import Float, Tensor


@dataclass(frozen=True)
class Trial:
    """A choice of everything with its ridge path.

    Attributes:
        layers: of the features.
        prior: its name.
        length_scale: in units of the standardised features.
        species_weight: w.
        ridges: absolute values, ascending; those below the rounding of K are left out.
        scores: of the criterion: minus the log of an error, up to a constant.
        loo_rmse: leave-one-out error in meV/atom for each ridge.
        loo_mae: the same, mean absolute.
        evidence: log evidence for each ridge; empty with force rows, which have none.
        force_weight: Angstrom^2; None without forces.
        loo_forces: leave-one-out force error in meV/Angstrom for each ridge, mean over structures of each one's root
            mean square; empty without forces.
        tangent_share: s, the share of the tangent kernel; 0 for the kernel on features alone.
        tangent_amplitude: what the tangent kernel is multiplied by so that force rows of both are of one size.
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
    tangent_share: float = 0.0
    tangent_amplitude: float = 1.0

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


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest score."""
    return max(trials, key=lambda trial: trial.score)


def make_trials(
    layers: tuple[str, ...],
    priors: Sequence[PriorColumns],
    found: Residuals,
    judged: Judged,
    n_atoms: Float[Tensor, "structures"],
    ridges: Float[Tensor, "ridges"],
    criterion: str,
    at: tuple[float, float, float],
    tangent: tuple[float, float] = (0.0, 1.0),
) -> list[Trial]:
    """Leave-one-out errors as trials, one a prior.

    `at` is length scale, species weight and force weight, `tangent` share and amplitude of the tangent kernel.
    """
    scores = score(criterion, judged)
    per_atom = 1000 * found.energy / n_atoms
    forces = 1000 * found.force.nanmean(-1)
    has_forces = bool(torch.isfinite(found.force).any())
    return [
        Trial(
            layers,
            prior.name,
            at[0],
            at[1],
            tuple(ridges.tolist()),
            tuple(scores[p].tolist()),
            tuple(per_atom[p].square().mean(-1).sqrt().tolist()),
            tuple(per_atom[p].abs().mean(-1).tolist()),
            () if judged.evidence is None else tuple(judged.evidence[p].tolist()),
            at[2] if has_forces else None,
            tuple(forces[p].tolist()) if has_forces else (),
            *tangent,
        )
        for p, prior in enumerate(priors)
    ]
