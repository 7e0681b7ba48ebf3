"""Model files of format 2, written when the exact and the sparse solver had models of their own."""

from typing import Any

import torch

from mekrr.features import Environments, Scaler
from mekrr.kernels import Basis, StructureKernel, energy_noise
from mekrr.tune.criteria import AUTO, BALANCED
from mekrr.typing import Tensor

EXACT_JITTER = 1e-14  # of the diagonal of K, at least


def from_format_2(tensors: dict[str, Tensor], header: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same potential as format 3 holds it.

    Predictions do not change. The exact solver kept a factor of (K + noise)^-1 and not the equations it came from; they
    are made again by one pass over the kernel of the training structures.

    Args:
        tensors: of the file.
        header: of the file.
    """
    w = header["species_weight"]
    numbers, same = header["model"], {"force_weight": 0.0, "stress_weight": 0.0, "force_amplitude": None}
    record = {"kernel": header["kernel"], "length_scale": header["length_scale"]}
    new = header | same | {"kernel": [record | {"all_pairs": 1.0 - w, "same_species": w}]}
    new["record"] = header["facts"] | {"options": _options(header["facts"]["options"])}
    kept = {name: value for name, value in tensors.items() if not name.startswith("model.")}
    kept |= {f"centres.{name}": tensors[f"model.{name}"] for name in ("features", "species")}
    if header["solver"] == "sparse":
        kept |= {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.equations.")}
        kept["centres.n_atoms"] = torch.ones_like(tensors["model.species"])
        kept["coefficients"] = tensors["model.coefficients"]
        return kept, new | numbers | {"counts": numbers["equations"]}
    kept |= {"centres.n_atoms": tensors["model.n_atoms"], "coefficients": tensors["model.dual_coef"]}
    raw = Environments(*(kept[f"centres.{name}"] for name in ("features", "species", "n_atoms")))
    kernel = StructureKernel.from_records(new["kernel"], header["embedding"])
    basis = Basis.of(Scaler(tensors["scaler.mean"], tensors["scaler.scale"])(raw), kernel, relative=EXACT_JITTER)
    # rows are K scale; with W = weight / noise and K = L L', A = sum w psi psi' = L' W' L, W' = scale^2 W
    n = raw.n_atoms.double()
    scale = n if header["embedding"] == "mean" else torch.ones_like(n)
    w_rows = tensors["labels.weights"] * scale**2 / energy_noise(n, header["embedding"])
    kept["equations.gram"] = basis.L.T @ (w_rows[:, None] * basis.L)
    kept["equations.gram_forces"] = torch.zeros_like(kept["equations.gram"])
    # only the sum over columns that the prior makes of them is known: (A + ridge) L' c in the DFT column
    columns = torch.zeros(len(n), 1, dtype=torch.float64)
    whitened = basis.L.T @ kept["coefficients"]
    columns[:, 0] = kept["equations.gram"] @ whitened + numbers["ridge"] * whitened
    kept["equations.moments"] = columns
    counts = {"n_structures": len(n), "n_force_rows": 0, "n_force_components": 0}
    return kept, new | {
        "counts": counts,
        "jitter": basis.jitter,
        "ridge": numbers["ridge"],
        "energy_amplitude": numbers["amplitude"],
    }


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """The default criterion had the name of what it is for energies alone, whatever was fitted."""
    return options | ({"criterion": AUTO} if options["criterion"] == BALANCED else {})
