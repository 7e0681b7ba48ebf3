"""Writes the model files of format 2 that test_old_files.py reads; to be run with mekrr at revision c83cfc5.

    PYTHONPATH=src:tests python make_format_2.py FOLDER

Beside each file stand its predictions, and the kernel part alone for given features, which no backbone rounds.
"""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.features import extract
from support import alloy

COMMON = {"layers": ("interaction_0",), "length_scale": 12.0, "species_weight": 0.4, "ridge": 1e-4}
FITS = {
    "exact_sum": {"solver": "exact", "forces": False, "prior": "composition"},
    "exact_mean": {"embedding": "mean", "prior": "backbone-scaled"},
    "sparse_forces": {"solver": "sparse", "prior": "backbone", "inducing": 20, "force_weight": 1e-3},
}
TEST = [alloy(5), alloy(20)]
WEIGHTS = (1.0, 2.0, 0.5, 1.0, 3.0, 1.0)


def main(folder: Path) -> None:
    structures = [
        replace(s, weight=w) for s, w in zip(as_structures([alloy(t) for t in range(6)]), WEIGHTS, strict=True)
    ]
    for name, options in FITS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            potential = KernelPotential("sevennet-0", **COMMON, **options).fit(structures)
        potential.save(folder / f"{name}.safetensors")
        write_predictions(potential, folder / f"{name}.json")
        save_file(kernel_part(potential), folder / f"{name}_kernel.safetensors")


def write_predictions(potential: KernelPotential, path: Path) -> None:
    found = potential.predict(TEST, uncertainty=True)
    record = {
        "energy": [p.energy for p in found],
        "energy_std": [p.energy_std for p in found],
        "forces": [p.forces.tolist() for p in found],
        "stress": [p.stress.tolist() for p in found],
    }
    path.write_text(json.dumps(record) + "\n")


def kernel_part(potential: KernelPotential) -> dict[str, torch.Tensor]:
    fitted = potential.fitted_
    raw = extract(TEST, potential.backbone, fitted.layers).environments
    x = fitted.scaler(raw)
    found = fitted.expansion(x, slopes=True, cross=True)
    return {
        "features": raw.features,
        "species": raw.species,
        "n_atoms": raw.n_atoms,
        "atomic_energies": found.atomic_energies,
        "slopes": found.slopes,
        "energy_std": fitted.energy_deviation(x, found.cross),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
