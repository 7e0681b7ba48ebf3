"""From labels to a potential: fits, closed-form updates between, and choices made again when they have gone stale."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mekrr.data import Structure
from mekrr.errors import MekrrWarning
from mekrr.learning.labels import Label
from mekrr.potential import KernelPotential
from mekrr.potential.archive import save_fitted
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.potential import FEWEST

GROWTH = 1.2
"""Labels are added by updates until they have grown so much; then all are solved anew, in a basis of their own."""

DRIFT = math.log(1.25)
"""Hyperparameters are chosen again when their score, minus the log of an error, has moved by more."""

CHOSEN = ("layers", "prior", "length_scale", "species_weight", "tangent_share", "force_weight")

HONEST = 8
"""Labels whose errors, each predicted before, correct the deviations; the last ones count."""

FEWEST_HONEST, LEAST_CORRECTION, MOST_CORRECTION = 2, 0.1, 3.0
CORRECTION_QUANTILE = 0.8  # on the safe side of the middle: there are few of them


@dataclass(frozen=True)
class Choice:
    """Hyperparameters at work.

    Attributes:
        values: by name of the option.
        score: their leave-one-out score when they were chosen.
        n_labels: then.
        n_solved: labels when all were last solved together; updates came after.
    """

    values: dict[str, Any]
    score: float
    n_labels: int
    n_solved: int

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Choice":
        """From a line of the journal."""
        values = found["values"] | {"layers": tuple(found["values"]["layers"])}
        return Choice(values, found["score"], found["n_labels"], found["n_solved"])


class Learner:
    """A potential that grows with its labels.

    Args:
        options: of fits.
        cache: folder of features.
        device: where the backbone computes.
        trust_checkpoint: see KernelPotential.

    Attributes:
        potential: None before there are enough labels.
        choice: None likewise.
        n_labels: in the potential.

    Raises:
        ValueError: for options under which forces are not learnt.
    """

    def __init__(self, options: FitOptions, cache: Path, device: str = "auto", trust_checkpoint: bool = False) -> None:
        if options.solver == "exact" or options.embedding == "mean" or options.forces is False:
            raise ValueError(
                "learning while computing needs forces and their deviations: leave out --solver exact, --embedding "
                "mean and --no-forces"
            )
        self._given = options
        self._common: dict[str, Any] = {"cache": cache, "device": device, "trust_checkpoint": trust_checkpoint}
        self._network = KernelPotential(**self._common, **vars(options))
        self.potential: KernelPotential | None = None
        self.choice: Choice | None = None
        self.n_labels = 0
        self.warned: list[str] = []

    @property
    def backbone(self) -> Any:
        """The network."""
        return self._network.backbone

    def take_up(self, path: Path, lines: Sequence[dict[str, Any]]) -> None:
        """The potential of a run that was killed, with the choice that the journal has of it."""
        if not path.exists():
            return
        potential = KernelPotential.load(path, self._common["device"], self._common["trust_checkpoint"])
        potential.cache = self._common["cache"]
        n = potential.fitted_.record.data.n_structures
        found = [line for line in lines if line["kind"] == "model" and line["n_labels"] == n]
        if found:
            fitted = potential.fitted_
            potential.fitted_ = fitted.with_deviations_times(1.0 / fitted.record.deviations_times)
            self.potential, self.n_labels, self.choice = potential, n, Choice.from_json(found[-1]["choice"])

    def save(self, path: Path, times: float) -> None:
        """Write the potential with its deviations corrected, as whoever loads it has no labels to see that by."""
        assert self.potential is not None
        save_fitted(self.potential.fitted_.with_deviations_times(times), path)

    def learn(self, labels: Sequence[Label]) -> dict[str, Any] | None:
        """Bring the potential to these labels; what was done, in numbers, or None when there was nothing to do."""
        structures = [label.structure for label in labels]
        n, old = len(structures), self.choice
        if n < FEWEST or n == self.n_labels:
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MekrrWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            if old is None:
                how = self._choose(structures, "enough labels for a first choice")
            elif n < GROWTH * old.n_solved:
                how = self._update(structures)
            else:
                how = self._solve(structures, old)
        self.n_labels = n
        self.warned = [str(one.message) for one in caught if issubclass(one.category, MekrrWarning)]
        return how | self._numbers()

    def _choose(self, structures: Sequence[Structure], why: str) -> dict[str, Any]:
        self.potential = self._fit(self._given, structures)
        best = self.potential.fitted_.record.search.best
        values = {name: getattr(best, name) for name in CHOSEN}
        self.choice = Choice(values, best.score, len(structures), len(structures))
        return {"how": "chosen", "why": why}

    def _solve(self, structures: Sequence[Structure], old: Choice) -> dict[str, Any]:
        """All labels together, in a basis of their own; leave-one-out and the calibration are new."""
        free = {name for name in CHOSEN if getattr(self._given, name) == AUTO}
        fixed = replace(self._given, **{name: value for name, value in old.values.items() if name in free})
        solved = self._fit(fixed, structures)
        score = solved.fitted_.record.search.best.score
        if free and abs(score - old.score) > DRIFT:
            change = 100 * math.expm1(old.score - score)
            return self._choose(structures, f"the leave-one-out error had moved by {change:+.0f}%")
        self.potential, self.choice = solved, replace(old, n_solved=len(structures))
        return {"how": "solved", "why": f"{len(structures)} labels, {old.n_solved} at the last solution"}

    def _update(self, structures: Sequence[Structure]) -> dict[str, Any]:
        assert self.potential is not None
        new = structures[self.n_labels :]
        if not all(self.potential.fitted_.trained_on(new)):
            self.potential.update(new)
        return {"how": "updated", "why": f"{len(new)} more"}

    def _fit(self, options: FitOptions, structures: Sequence[Structure]) -> KernelPotential:
        potential = KernelPotential(**self._common, **vars(options))
        return potential.fit(structures)

    def _numbers(self) -> dict[str, Any]:
        assert self.potential is not None
        assert self.choice is not None
        loo = self.potential.fitted_.record.leave_one_out
        return {
            "n_labels": self.n_labels,
            "loo_energy_mev_per_atom": loo.median_absolute_mev_per_atom,
            "loo_forces_mev_per_angstrom": loo.forces_median_mev_per_angstrom,
            "choice": vars(self.choice),
        }


def correction(labels: Sequence[Label], own: bool = False) -> float:
    """What calibrated deviations are multiplied by: errors found at labels over deviations predicted there.

    Each of these was predicted before it was labelled: leave-one-out on a handful of structures, where leaving one out
    means extrapolating, gives deviations that are too large by factors. 1 while there are fewer than two.

    Args:
        labels: in the order in which they came.
        own: of the potential itself, not of the surface that is exact at the best label.
    """
    ratios = [ratio for label in labels if (ratio := label.surprise(own)) is not None]
    if len(ratios) < FEWEST_HONEST:
        return 1.0
    return float(np.clip(np.quantile(ratios[-HONEST:], CORRECTION_QUANTILE), LEAST_CORRECTION, MOST_CORRECTION))
