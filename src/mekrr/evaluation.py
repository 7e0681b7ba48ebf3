"""Errors of a potential on labelled structures, beside the backbone by itself and the composition fit."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from scipy.stats import spearmanr

from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.data import Structure, as_structures, require_sound
from mekrr.errors import DataError
from mekrr.graph import build_batch
from mekrr.potential import KernelPotential, MekrrWarning, Prediction, StageProgress
from mekrr.potential.fitted import Fitted
from mekrr.potential.record import Record
from mekrr.potential.refine import FEWEST
from mekrr.prior import Prior
from mekrr.typing import Float, ndarray

UNLIKE = 10.0
"""A structure is unlike the training data when its deviation is so many of those of leave-one-out."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions beside labels.

    Attributes:
        structures: evaluated, each with an energy.
        predictions: of the potential, one a structure.
        backbone_energies: the backbone's own plus per-element shifts fitted on the training data, eV; None when it has
            no energy.
        composition_energies: of the per-element fit to the training data, eV: what knowing the formula alone gives.
        by: info key by which errors are grouped, or None.
        n_training: how many of the structures the potential was fitted to.
        remarks: what a reader must know before the errors; each was a warning when it was found.
        refinable: whether the same structures could have been fitted with --refine.
    """

    structures: list[Structure]
    predictions: list[Prediction]
    backbone_energies: Float[ndarray, "structures"] | None
    composition_energies: Float[ndarray, "structures"]
    by: str | None = None
    n_training: int = 0
    remarks: tuple[str, ...] = ()
    refinable: bool = False

    @property
    def n_atoms(self) -> Float[ndarray, "structures"]:
        """Atoms of each structure."""
        return np.array([len(s) for s in self.structures], dtype=float)

    @property
    def energies(self) -> Float[ndarray, "structures"]:
        """DFT energies, eV."""
        return np.array([s.energy for s in self.structures], dtype=float)

    @property
    def predicted_energies(self) -> Float[ndarray, "structures"]:
        """Predicted energies, eV."""
        return np.array([p.energy for p in self.predictions])

    @property
    def energy_errors(self) -> Float[ndarray, "structures"]:
        """Predicted minus DFT, meV/atom."""
        return 1000 * (self.predicted_energies - self.energies) / self.n_atoms

    def force_errors(self, backbone: bool = False) -> Float[ndarray, "components"] | None:
        """Predicted minus DFT over all labelled components, meV/Angstrom; None where there are none."""
        pairs = [
            (p.backbone_forces if backbone else p.forces, s.forces)
            for p, s in zip(self.predictions, self.structures, strict=True)
        ]
        errors = [1000 * (f - label).ravel() for f, label in pairs if f is not None and label is not None]
        return np.concatenate(errors) if errors else None

    def metrics(self) -> dict[str, Any]:
        """The table of `mekrr evaluate --json`: RMSE and MAE in meV/atom and meV/Angstrom."""
        forces, own_forces = self.force_errors(), self.force_errors(backbone=True)
        table: dict[str, Any] = {
            "n_structures": len(self.structures),
            "n_atoms": int(self.n_atoms.sum()),
            "n_training_structures": self.n_training,
            "energy_mae_mev_per_atom": _mae(self.energy_errors),
            "energy_rmse_mev_per_atom": _rmse(self.energy_errors),
            "energy_rmse_per_composition_mev_per_atom": _rmse(self._without_composition_offsets()),
            "forces_mae_mev_per_angstrom": _mae(forces),
            "forces_rmse_mev_per_angstrom": _rmse(forces),
            "backbone_energy_rmse_mev_per_atom": _rmse(self._errors_of(self.backbone_energies)),
            "backbone_energy_mae_mev_per_atom": _mae(self._errors_of(self.backbone_energies)),
            "backbone_forces_rmse_mev_per_angstrom": _rmse(own_forces),
            "backbone_forces_mae_mev_per_angstrom": _mae(own_forces),
            "composition_energy_rmse_mev_per_atom": _rmse(self._errors_of(self.composition_energies)),
            "composition_energy_mae_mev_per_atom": _mae(self._errors_of(self.composition_energies)),
            "zero_forces_rmse_mev_per_angstrom": self._force_scale(),
        }
        table |= self._calibration() | self._force_calibration()
        if self.by is not None:
            table["groups"] = self.groups()
        return table

    def verdict(self) -> str:
        """One sentence: whether the potential is better than its backbone on these structures, with the errors."""
        m = self.metrics()
        pairs = [
            ("energies", m["energy_rmse_mev_per_atom"], m["backbone_energy_rmse_mev_per_atom"], "meV/atom"),
            ("forces", m["forces_rmse_mev_per_angstrom"], m["backbone_forces_rmse_mev_per_angstrom"], "meV/Å"),
        ]
        known = [(what, own, rival, unit) for what, own, rival, unit in pairs if own is not None and rival is not None]
        if not known:
            return "The backbone has no energy of its own: there is nothing beside the potential but the mean energies."
        said = [
            f"{'better' if own <= rival else 'WORSE'} in {what} ({own:.3g} against {rival:.3g} {unit})"
            for what, own, rival, unit in known
        ]
        advice = ""
        if not all(own <= rival for _, own, rival, _ in known):
            refined = ", or try --refine 1, which may carry further" if self.refinable else ""
            advice = (
                f"; where it is worse, use the network, or let the potential learn from some such structures{refined}"
            )
        return f"Than its backbone by itself with shifts, this potential is {' and '.join(said)}{advice}."

    def groups(self) -> dict[str, dict[str, Any]]:
        """Energy and force errors for each value of the info key `by`."""
        names = self.group_names()
        table = {}
        for name in sorted(set(names)):
            chosen = [t for t, other in enumerate(names) if other == name]
            part = self.part(chosen)
            table[name] = {
                "n_structures": len(chosen),
                "energy_rmse_mev_per_atom": _rmse(part.energy_errors),
                "energy_mae_mev_per_atom": _mae(part.energy_errors),
                "forces_rmse_mev_per_angstrom": _rmse(part.force_errors()),
            }
        return table

    def group_names(self) -> list[str]:
        """The value of the info key `by` of each structure."""
        return [str(s.info.get(self.by or "", "(none)")) for s in self.structures]

    def part(self, chosen: Sequence[int]) -> "Evaluation":
        """The evaluation of some of the structures."""
        return Evaluation(
            [self.structures[t] for t in chosen],
            [self.predictions[t] for t in chosen],
            None if self.backbone_energies is None else self.backbone_energies[list(chosen)],
            self.composition_energies[list(chosen)],
        )

    def _errors_of(self, energies: np.ndarray | None) -> np.ndarray | None:
        return None if energies is None else 1000 * (energies - self.energies) / self.n_atoms

    def _without_composition_offsets(self) -> np.ndarray:
        """Energy errors after removing one offset, per atom, from the structures of each composition."""
        errors = self.energy_errors.copy()
        formulas = np.array([s.atoms.get_chemical_formula(empirical=True) for s in self.structures])
        for formula in np.unique(formulas):
            errors[formulas == formula] -= errors[formulas == formula].mean()
        return errors

    def _force_scale(self) -> float | None:
        labelled = [s.forces.ravel() for s in self.structures if s.forces is not None]
        return 1000 * float(np.sqrt(np.mean(np.concatenate(labelled) ** 2))) if labelled else None

    def _calibration(self) -> dict[str, float | None]:
        """Shares of energies within one and two predicted deviations (68% and 95% for a normal distribution)."""
        deviations = np.array([p.energy_std for p in self.predictions if p.energy_std is not None])
        if len(deviations) != len(self.structures):
            return {"share_within_one_std": None, "share_within_two_std": None}
        errors = np.abs(self.predicted_energies - self.energies)
        ratio = errors / deviations
        return {
            "energy_std_rank_correlation": rank_correlation(errors / self.n_atoms, deviations / self.n_atoms),
            "mean_energy_std_mev_per_atom": float(np.mean(1000 * deviations / self.n_atoms)),
            "share_within_one_std": float(np.mean(ratio <= 1)),
            "share_within_two_std": float(np.mean(ratio <= 2)),
        }

    def force_ratios(self) -> tuple[Float[ndarray, "components"], float | None, float] | None:
        """Force errors over their deviations, the rank correlation of the two by atom, and the mean deviation.

        The correlation is between the norms of error and deviation of each atom, the mean in meV/Angstrom; None where
        there are no deviations or no labels.
        """
        pairs = [
            (np.asarray(p.forces) - s.forces, np.asarray(p.forces_std))
            for p, s in zip(self.predictions, self.structures, strict=True)
            if p.forces is not None and p.forces_std is not None and s.forces is not None
        ]
        if not pairs:
            return None
        errors, deviations = (np.concatenate(part) for part in zip(*pairs, strict=True))
        correlation = rank_correlation(np.linalg.norm(errors, axis=1), np.linalg.norm(deviations, axis=1))
        return (np.abs(errors) / deviations).ravel(), correlation, 1000 * float(deviations.mean())

    def _force_calibration(self) -> dict[str, float | None]:
        """The same shares of force components; absent without deviations of forces."""
        found = self.force_ratios()
        if found is None:
            return {}
        ratio, correlation, mean = found
        return {
            "mean_forces_std_mev_per_angstrom": mean,
            "forces_share_within_one_std": float(np.mean(ratio <= 1)),
            "forces_share_within_two_std": float(np.mean(ratio <= 2)),
            "forces_std_rank_correlation": correlation,
        }


def rank_correlation(a: Float[ndarray, "n"], b: Float[ndarray, "n"]) -> float | None:
    """Spearman's; None for fewer than three values or where all are equal."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def evaluate(
    potential: KernelPotential,
    structures: Sequence[Structure | Atoms],
    by: str | None = None,
    progress: StageProgress | None = None,
    force_uncertainty: bool = False,
) -> Evaluation:
    """Predict labelled structures and compare.

    Args:
        potential: fitted.
        structures: with energies; forces are compared where they are there.
        by: info key by which errors are grouped as well.
        progress: see KernelPotential.fit.
        force_uncertainty: compare force errors with their deviations too, at the cost of some reverse passes each.

    Raises:
        ValueError: for deviations of forces from a potential that has none, or beside no forces.
        DataError: when a structure has no energy, labels or a geometry that are unsound (such as NaN), or elements the
            potential cannot treat.
    """
    structures = as_structures(structures)
    for structure in structures:
        if structure.energy is None:
            raise DataError(f"{structure.where}: no energy to compare with; mekrr predict needs none")
    require_sound(structures)
    if by is not None and not any(by in s.info for s in structures):
        keys = sorted({key for s in structures for key in s.info})
        raise DataError(f"no structure has the info key {by!r}; there are: {', '.join(keys) or 'none'}")
    has_forces = any(s.forces is not None for s in structures)
    if force_uncertainty and not has_forces:
        raise ValueError(
            "--force-uncertainty: without effect here, since no structure has forces to compare with; leave it out"
        )
    predictions = potential.predict(
        structures,
        forces=has_forces,
        uncertainty=True,
        force_uncertainty=force_uncertainty,
        backbone_forces=has_forces and potential.fitted_.refined is None,
        progress=progress,
    )
    fitted = potential.fitted_
    n_training = sum(fitted.trained_on(structures))
    remarks = [*training_remarks(fitted, structures), *unlike_remarks(fitted.record, structures, predictions)]
    for remark in remarks:
        warnings.warn(remark, MekrrWarning, stacklevel=2)
    if fitted.refined is not None:
        predictions = _beside_pretrained(potential, structures, predictions)
    own = [p.backbone_energy for p in predictions]
    baseline = None
    if fitted.baseline is not None:
        baseline = shifts_of(fitted.baseline, structures) + np.array(own, dtype=float)
    reference = shifts_of(fitted.reference, structures)
    refinable = (
        fitted.refined is None and bool(potential.backbone.linear_maps) and fitted.record.data.n_structures >= FEWEST
    )
    return Evaluation(structures, predictions, baseline, reference, by, n_training, tuple(remarks), refinable)


def training_remarks(fitted: Fitted, structures: Sequence[Structure]) -> list[str]:
    """A sentence where training structures are among the structures."""
    n_training = sum(fitted.trained_on(structures))
    if not n_training:
        return []
    all_of_them = n_training == len(structures)
    which = "all of these structures" if all_of_them else f"{n_training} of {len(structures)} structures"
    return [
        f"{which} are training structures of this potential: errors of them are not errors on new data. Leave them "
        "out, or go by the leave-one-out errors"
    ]


def warn_of_unlike(record: Record, structures: Sequence[Structure], predictions: Sequence[Prediction]) -> None:
    """Warn of structures that are unlike the training data; see `unlike_remarks`."""
    for remark in unlike_remarks(record, structures, predictions):
        warnings.warn(remark, MekrrWarning, stacklevel=3)


def unlike_remarks(record: Record, structures: Sequence[Structure], predictions: Sequence[Prediction]) -> list[str]:
    """A sentence on structures that are unlike the training data by their deviation, where there are any.

    Far from the data a deviation is an extrapolation too: on copper at 3000 K, from copper at 300 K, it rose to
    190 times the leave-one-out error, and errors were still 3.3 times it (docs/results/transfer-copper.md).

    Args:
        record: of the fitted potential.
        structures: predicted.
        predictions: with deviations; others are passed over.
    """
    usual, seen = record.usual_error
    limit = UNLIKE * usual
    if not limit:
        return []
    per_atom = np.array([1000 * (p.energy_std or 0.0) / len(s) for s, p in zip(structures, predictions, strict=True)])
    unlike = np.flatnonzero(per_atom > limit)
    if not len(unlike):
        return []
    worst = int(per_atom.argmax())
    return [
        f"{len(unlike)} of {len(structures)} structures are unlike the training data: the deviation of their "
        f"energy is above {limit:.2g} meV/atom, {UNLIKE:g} times that of {seen}. The largest is "
        f"{per_atom[worst]:.3g} meV/atom, of {structures[worst].where}. There errors can be several times the "
        "deviation: label some of them (mekrr select says which) before you rely on such predictions"
    ]


def _beside_pretrained(
    potential: KernelPotential, structures: Sequence[Structure], predictions: Sequence[Prediction]
) -> list[Prediction]:
    """Predictions of a refined network, with the pretrained one's as the backbone's own."""
    network, found = potential.pretrained, []
    for structure, prediction in zip(structures, predictions, strict=True):
        own = energy_forces_stress(network, build_batch([structure.atoms], network.cutoff, network.max_neighbours))
        forces = None if prediction.forces is None else own.forces.cpu().numpy()
        found.append(replace(prediction, backbone_energy=float(own.energies[0]), backbone_forces=forces))
    return found


def shifts_of(prior: Prior, structures: Sequence[Structure]) -> Float[ndarray, "structures"]:
    """The part of a prior's energy that depends on composition alone, eV."""
    totals = [prior.shift_energies(torch.as_tensor(s.species)).sum() for s in structures]
    return np.array([float(total) for total in totals])


def _rmse(errors: np.ndarray | None) -> float | None:
    return None if errors is None else float(np.sqrt(np.mean(errors**2)))


def _mae(errors: np.ndarray | None) -> float | None:
    return None if errors is None else float(np.mean(np.abs(errors)))
