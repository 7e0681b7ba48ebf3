"""The model file: one safetensors file with a versioned JSON header, no pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file

from mekrr.errors import ModelFileError
from mekrr.features import Scaler
from mekrr.files import atomic_path
from mekrr.kernels import make_kernel
from mekrr.potential.fitted import MODELS, Fitted, TrainingLabels
from mekrr.prior import Prior
from mekrr.typing import Tensor

FORMAT_VERSION = 2
HEADER = "mekrr"


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
    return {
        "format_version": FORMAT_VERSION,
        "layers": list(fitted.layers),
        "solver": fitted.model.solver,
        "kernel": fitted.kernel.name,
        "embedding": fitted.embedding,
        "length_scale": fitted.length_scale,
        "species_weight": fitted.species_weight,
        "model": fitted.model.numbers(),
        "prior": _prior_to_json(fitted.prior),
        "baseline": None if fitted.baseline is None else _prior_to_json(fitted.baseline),
        "reference": _prior_to_json(fitted.reference),
        "facts": fitted.facts,
    }


def load_fitted(path: str | Path) -> Fitted:
    """Read a potential.

    Raises:
        FileNotFoundError: when there is no such file.
        ModelFileError: when it is truncated, not a mekrr model, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    tensors, metadata = _read(path)
    if HEADER not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not a mekrr model; was it written by mekrr fit?")
    header = json.loads(metadata[HEADER])
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: model format {version}, but this mekrr reads format {FORMAT_VERSION}; install the mekrr it was "
            "written with, or fit again"
        )
    try:
        return _fitted(tensors, header)
    except (KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: the model file lacks {error}; it is damaged, fit again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path}: not a whole safetensors file ({error}); it may be truncated") from error


def _tensors(fitted: Fitted) -> dict[str, Tensor]:
    labels = {f"labels.{name}": value for name, value in vars(fitted.labels).items()}
    scaler = {"scaler.mean": fitted.scaler.mean, "scaler.scale": fitted.scaler.scale}
    model = {f"model.{name}": tensor for name, tensor in fitted.model.tensors().items()}
    # Copies: labels and model of an exact fit share tensors, which safetensors refuses.
    return {name: tensor.contiguous().clone() for name, tensor in (labels | scaler | model).items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fitted(tensors: dict[str, Tensor], header: dict[str, Any]) -> Fitted:
    return Fitted(
        model=MODELS[header["solver"]].restore(
            _under(tensors, "model."),
            header["model"],
            Scaler(tensors["scaler.mean"], tensors["scaler.scale"]),
            make_kernel(header["kernel"], header["length_scale"]),
            header["species_weight"],
            header["embedding"],
        ),
        labels=TrainingLabels(**_under(tensors, "labels.")),
        prior=_prior_from_json(header["prior"]),
        baseline=None if header["baseline"] is None else _prior_from_json(header["baseline"]),
        reference=_prior_from_json(header["reference"]),
        layers=tuple(header["layers"]),
        facts=header["facts"],
    )


def _prior_to_json(prior: Prior) -> dict[str, Any]:
    return vars(prior) | {"shifts": {str(z): shift for z, shift in prior.shifts.items()}}


def _prior_from_json(record: dict[str, Any]) -> Prior:
    return Prior(**(record | {"shifts": {int(z): shift for z, shift in record["shifts"].items()}}))
