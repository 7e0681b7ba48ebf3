"""The model file: one safetensors file with a versioned JSON header, no pickle."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file

from mekrr.errors import ModelFileError
from mekrr.features import Environments, Scaler, TangentSpace
from mekrr.files import atomic_path
from mekrr.kernels import StructureKernel, TangentBasis
from mekrr.potential.fitted import Fitted, TrainingLabels
from mekrr.potential.legacy import from_format_2
from mekrr.potential.model import Model, TangentPart
from mekrr.potential.record import Record
from mekrr.prior import Prior
from mekrr.solve import NormalEquations, RowWeights
from mekrr.typing import Tensor

FORMAT_VERSION = 3
HEADER = "mekrr"
SKETCHES = "sketches"


def save_fitted(fitted: Fitted, path: str | Path) -> None:
    """Write a potential; the old file stays until the new one is whole.

    Raises:
        OSError: when the file cannot be written.
    """
    with atomic_path(path) as temporary:
        save_file(_tensors(fitted), temporary, metadata={HEADER: json.dumps(_header(fitted))})


def pack(fitted: Fitted) -> tuple[bytes, str]:
    """A potential as bytes and text, for `unpack`: what the model file holds."""
    return save(_tensors(fitted)), json.dumps(_header(fitted))


def unpack(tensors: bytes, header: str) -> Fitted:
    """The potential that `pack` was given."""
    return _fitted(load(tensors), json.loads(header))


def _header(fitted: Fitted) -> dict[str, Any]:
    model = fitted.model
    return {
        "format_version": FORMAT_VERSION,
        "layers": list(fitted.layers),
        "solver": model.solver,
        "embedding": model.embedding,
        "kernel": model.kernel.as_records(),
        "ridge": model.ridge,
        "force_weight": model.weights.force,
        "stress_weight": model.weights.stress,
        "jitter": model.jitter,
        "energy_amplitude": model.energy_amplitude,
        "force_amplitude": model.force_amplitude,
        "tangent": None if model.tangent is None else _tangent_to_json(model.tangent),
        "counts": {name: value for name, value in vars(model.equations).items() if isinstance(value, int)},
        "prior": _prior_to_json(fitted.prior),
        "baseline": None if fitted.baseline is None else _prior_to_json(fitted.baseline),
        "reference": _prior_to_json(fitted.reference),
        "record": fitted.record.as_json(),
    }


def load_fitted(path: str | Path) -> Fitted:
    """Read a potential, of this format or of an older one.

    Raises:
        FileNotFoundError: when there is no such file.
        ModelFileError: when it is truncated, not a mekrr model, or of a format that this version does not read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    tensors, metadata = _read(path)
    if HEADER not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not a mekrr model; was it written by mekrr fit?")
    try:
        header = json.loads(metadata[HEADER])
        version = header.get("format_version")
        if version == 2:
            tensors, header = from_format_2(tensors, header)
        elif version != FORMAT_VERSION:
            raise ModelFileError(
                f"{path}: model format {version}, but this mekrr reads formats 2 and {FORMAT_VERSION}; install the "
                "mekrr it was written with, or fit again"
            )
        return _fitted(tensors, header)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: the model file is damaged ({error!r}); fit again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path}: not a whole safetensors file ({error}); it may be truncated") from error


def _tensors(fitted: Fitted) -> dict[str, Tensor]:
    model = fitted.model
    found = {f"labels.{name}": value for name, value in vars(fitted.labels).items() if name != SKETCHES}
    if fitted.labels.sketches is not None:
        found[SKETCHES] = fitted.labels.sketches  # a name of their own, which earlier versions pass over
    found |= {f"scaler.{name}": value for name, value in vars(model.scaler).items() if isinstance(value, Tensor)}
    found |= {f"centres.{f.name}": getattr(model.raw, f.name) for f in fields(Environments)}
    found |= {f"equations.{name}": value for name, value in vars(model.equations).items() if isinstance(value, Tensor)}
    found["coefficients"] = model.coefficients
    if fitted.refined is not None:
        found["refined"] = fitted.refined
    if model.anchors is not None:
        features = len(model.basis.features)  # the rest is zero
        found["anchors"] = model.anchors[:features, :features]
    if (tangent := model.tangent) is not None:
        found |= {f"tangent_space.{name}": value for name, value in tangent.space.as_tensors().items()}
        found |= {
            "tangent.rows": tangent.basis.rows_of,
            "tangent.L": tangent.basis.L,
            "tangent.weights": tangent.weights,
        }
    # Copies: labels and centres of an exact fit share tensors, which safetensors refuses.
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fitted(tensors: dict[str, Tensor], header: dict[str, Any]) -> Fitted:
    # Tensors of a file lie where the file has them; products depend in their last bits on where a tensor starts.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    equations: dict[str, Any] = _under(tensors, "equations.") | header["counts"]
    # a file of old has the moments of all rows in one
    equations.setdefault("moments_forces", torch.zeros_like(equations["moments"]))
    anchors = tensors.get("anchors")
    if anchors is not None:
        beyond = len(tensors["equations.gram"]) - len(anchors)
        anchors = torch.nn.functional.pad(anchors, (0, beyond, 0, beyond))
    model = Model(
        header["solver"],
        Environments(**_under(tensors, "centres.")),
        Scaler(**_under(tensors, "scaler.")),
        StructureKernel.from_records(header["kernel"], header["embedding"]),
        tensors["coefficients"],
        NormalEquations(**equations),
        header["ridge"],
        RowWeights(header["force_weight"], header["stress_weight"]),
        header["jitter"],
        header["energy_amplitude"],
        header["force_amplitude"],
        None if header.get("tangent") is None else _tangent(tensors, header["tangent"]),
        anchors,
    )
    return Fitted(
        model,
        TrainingLabels(**_under(tensors, "labels."), sketches=tensors.get(SKETCHES)),
        _prior_from_json(header["prior"]),
        None if header["baseline"] is None else _prior_from_json(header["baseline"]),
        _prior_from_json(header["reference"]),
        tuple(header["layers"]),
        Record.from_json(header["record"]),
        tensors.get("refined"),
    )


def _tangent_to_json(tangent: TangentPart) -> dict[str, float]:
    basis = tangent.basis
    return {"share": tangent.share, "amplitude": basis.amplitude, "species_weight": basis.species_weight}


def _tangent(tensors: dict[str, Tensor], record: dict[str, float]) -> TangentPart:
    rows, L = tensors["tangent.rows"], tensors["tangent.L"]
    basis = TangentBasis(rows, record["amplitude"], record["species_weight"], L)
    space = TangentSpace.from_tensors(_under(tensors, "tangent_space."))
    return TangentPart(space, basis, record["share"], tensors["tangent.weights"])


def _prior_to_json(prior: Prior) -> dict[str, Any]:
    return vars(prior) | {"shifts": {str(z): shift for z, shift in prior.shifts.items()}}


def _prior_from_json(record: dict[str, Any]) -> Prior:
    return Prior(**(record | {"shifts": {int(z): shift for z, shift in record["shifts"].items()}}))
