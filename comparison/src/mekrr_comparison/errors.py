"""Errors of predictions against labels, and what else one test set tells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mekrr.data import Structure
from mekrr.evaluation import Evaluation
from mekrr.potential import Prediction

METRICS = (
    "n_structures",
    "n_atoms",
    "energy_mae_mev_per_atom",
    "energy_rmse_mev_per_atom",
    "energy_rmse_per_composition_mev_per_atom",
    "forces_mae_mev_per_angstrom",
    "forces_rmse_mev_per_angstrom",
    "zero_forces_rmse_mev_per_angstrom",
    "mean_energy_std_mev_per_atom",
    "share_within_one_std",
    "share_within_two_std",
)


def errors_of(structures: Sequence[Structure], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The metrics of a test set, as of `mekrr evaluate --json`, with the energy by element.

    Raises:
        ValueError: when a prediction is not finite or one is missing.
    """
    if len(predictions) != len(structures) or not all(np.isfinite(p.energy) for p in predictions):
        raise ValueError(f"{len(structures)} finite energies were expected; the method gave others")
    found = Evaluation(list(structures), list(predictions), None, np.zeros(len(structures)))
    metrics = found.metrics()
    table = {name: metrics.get(name) for name in METRICS}
    return table | {"energy_by_element": _by_element(structures, predictions)}


def _by_element(structures: Sequence[Structure], predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """Mean energy per atom of each element and its deviation between atoms, eV, where there are atomic energies."""
    if any(p.atomic_energies is None for p in predictions):
        return {}
    species = np.concatenate([s.species for s in structures])
    energies = np.concatenate([p.atomic_energies for p in predictions if p.atomic_energies is not None])
    return {
        chemical_symbols[z]: {
            "mean_ev": float(energies[species == z].mean()),
            "deviation_ev": float(energies[species == z].std()),
        }
        for z in np.unique(species)
    }
