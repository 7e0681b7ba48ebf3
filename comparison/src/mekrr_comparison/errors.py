"""Errors of predictions against labels, and what else one test set tells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mekrr.data import Structure
from mekrr.evaluation import Evaluation
from mekrr.potential import Prediction
from mekrr.typing import Float, ndarray

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


RULED = 0.5
FEW = 20
"""A mean square is ruled by a few structures when RULED of it is held by one in FEW, or by one of fewer than FEW."""


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
    squares = {"energy": found.energy_errors**2, "forces": _force_squares(structures, predictions)}
    ruled = {what: ruling(structures, each) for what, each in squares.items() if each is not None}
    return table | {"ruled_by": ruled, "energy_by_element": _by_element(structures, predictions)}


def ruling(structures: Sequence[Structure], squares: Float[ndarray, "structures"]) -> dict[str, Any]:
    """The few structures that rule a mean of these squares: their names and their share; empty where none do."""
    order = np.argsort(squares)[::-1]
    shares = np.cumsum(squares[order]) / max(squares.sum(), np.finfo(float).tiny)
    count = int(np.searchsorted(shares, RULED)) + 1
    if count > max(1, len(squares) // FEW) or len(squares) < FEW // 2:
        return {}
    return {"structures": [structures[t].where for t in order[:count]], "share": float(shares[count - 1])}


def _force_squares(
    structures: Sequence[Structure], predictions: Sequence[Prediction]
) -> Float[ndarray, "structures"] | None:
    """Squared force errors summed over each structure; None where there are none."""
    pairs = [
        (p.forces, s.forces)
        for p, s in zip(predictions, structures, strict=True)
        if p.forces is not None and s.forces is not None
    ]
    if len(pairs) < len(structures):
        return None
    return np.array([((np.asarray(found) - label) ** 2).sum() for found, label in pairs])


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
