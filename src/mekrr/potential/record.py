"""The record a potential carries of how it was made."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from ase.data import chemical_symbols

from mekrr._version import __version__
from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.features import structure_hash
from mekrr.potential.solution import Solution
from mekrr.tune import Choice, Trial
from mekrr.typing import Float, Tensor

RECORDED_PACKAGES = ("torch", "numpy", "ase", "vesin", "safetensors", "sevenn", "chgnet", "mace-torch")


def backbone_record(backbone: Backbone, spec: str) -> dict[str, Any]:
    """What identifies a backbone, and whom to cite."""
    card = backbone.card
    return {
        "spec": spec,
        "name": backbone.name,
        "identity": backbone.identity,
        "licence": card.licence,
        "citation": card.citation,
        "trained_on": card.trained_on,
    }


def data_record(structures: Sequence[Structure], forces: bool = False) -> dict[str, Any]:
    """Hash and summary of a training set; `forces` says whether it was fitted to them."""
    digest = hashlib.sha256()
    for structure in structures:
        digest.update(f"{structure_hash(structure.atoms)} {structure.energy!r}\n".encode())
    sizes = [len(structure) for structure in structures]
    return {
        "sha256": digest.hexdigest(),
        "n_structures": len(structures),
        "n_atoms": sum(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "elements": sorted({symbol for s in structures for symbol in s.atoms.get_chemical_symbols()}),
        "n_force_components": sum(s.forces.size for s in structures if s.forces is not None) if forces else 0,
        "n_stresses": sum(s.stress is not None for s in structures) if forces else 0,
        "hashes": [structure_hash(s.atoms)[:16] for s in structures],
        "sources": sorted({s.source for s in structures if s.source}),
    }


def choice_record(choice: Choice, final: Trial) -> dict[str, Any]:
    """The search, with the whole surface for the report; `final` is the best trial as it was solved."""
    return {
        "best": trial_record(final),
        "runner_up": None if choice.runner_up is None else trial_record(choice.runner_up),
        "screening": [trial_record(trial) for trial in choice.screening],
        "surface": [trial_record(trial, path=True) for trial in choice.trials],
        "factorisations": choice.factorisations,
    }


def trial_record(trial: Trial, path: bool = False) -> dict[str, Any]:
    """One trial at its best ridge; with its ridge path where asked."""
    best = trial.best
    record: dict[str, Any] = {
        "layers": list(trial.layers),
        "prior": trial.prior,
        "length_scale": trial.length_scale,
        "species_weight": trial.species_weight,
        "ridge": trial.ridge,
        "score": trial.score,
        "loo_rmse_mev_per_atom": trial.loo_rmse[best],
        "loo_mae_mev_per_atom": trial.loo_mae[best],
        "log_evidence": trial.evidence[best] if trial.evidence else None,
        "force_weight": trial.force_weight,
        "loo_forces_mev_per_angstrom": trial.loo_forces[best] if trial.loo_forces else None,
    }
    if path:
        record["ridges"] = list(trial.ridges)
        record["scores"] = [round(score, 6) for score in trial.scores]
        record["loo_rmse_path"] = [round(value, 5) for value in trial.loo_rmse]
    return record


def leave_one_out_record(
    residuals: Float[Tensor, "structures"],
    structures: Sequence[Structure],
    forces: Float[Tensor, "structures"] | None = None,
    worst: int = 10,
) -> dict[str, Any]:
    """Leave-one-out errors at the chosen hyperparameters, with the worst structures named.

    Args:
        residuals: eV.
        structures: of the training set.
        forces: root mean square force residual of each, eV/Angstrom; None for fits to energies.
        worst: how many structures to name.
    """
    per_atom = 1000 * residuals / torch.tensor([len(s) for s in structures])
    order = per_atom.abs().argsort(descending=True)[:worst].tolist()
    known = None if forces is None or bool(forces.isnan().all()) else forces[~forces.isnan()]
    return {
        "rmse_mev_per_atom": float(per_atom.square().mean().sqrt()),
        "mae_mev_per_atom": float(per_atom.abs().mean()),
        "median_absolute_mev_per_atom": float(per_atom.abs().median()),
        "forces_rmse_mev_per_angstrom": None if known is None else 1000 * float(known.square().mean().sqrt()),
        "forces_median_mev_per_angstrom": None if known is None else 1000 * float(known.median()),
        "worst": [{"where": structures[t].where, "error_mev_per_atom": float(per_atom[t])} for t in order],
    }


def solver_record(solution: Solution, forces: bool) -> dict[str, Any]:
    """What was solved, in which basis."""
    model, iterations = solution.model, solution.iterations
    if model.solver == "exact":
        return {"solver": "exact", "forces": False}
    species, counts = torch.unique(model.raw.species, return_counts=True)
    return {
        "solver": "sparse",
        "forces": forces,
        "n_inducing": len(model.raw.species),
        "inducing_per_species": {
            chemical_symbols[z]: n for z, n in zip(species.tolist(), counts.tolist(), strict=True)
        },
        "jitter": model.jitter,
        "n_force_directions": model.equations.n_force_rows,
        "probed_share": model.equations.probed_share,
        "exact_forces": None
        if iterations is None
        else {"residuals": list(iterations.residuals), "converged": iterations.converged},
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"mekrr": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
