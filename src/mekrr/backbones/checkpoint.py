"""Checkpoints in the format of the Open Catalyst Project, read without running any code they may hold."""

import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mekrr.errors import BackboneUnavailableError
from mekrr.typing import Tensor


@dataclass(frozen=True, eq=False)
class OCPCheckpoint:
    """What a checkpoint holds, as far as it is needed.

    Attributes:
        state: tensors by name, without the prefixes that parallel training adds.
        model: keyword arguments of the model.
        target_mean: eV, 0 where targets were not normalised.
        target_std: eV, 1 where targets were not normalised.
    """

    state: Mapping[str, Tensor]
    model: Mapping[str, Any]
    target_mean: float
    target_std: float


def read_ocp_checkpoint(path: Path) -> OCPCheckpoint:
    """Read `path` with torch's restricted unpickler: tensors, containers and numbers only.

    Raises:
        BackboneUnavailableError: if the file is truncated, holds objects other than plain data, or has another layout.
    """
    try:
        with _plain_numpy():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BackboneUnavailableError(
            f"{path} holds more than tensors and plain values, or is no checkpoint; nothing in it was run. Torch says: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise BackboneUnavailableError(
            f"{path} cannot be read, it may be truncated ({error}); fetch or copy it again"
        ) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise BackboneUnavailableError(
            f"{path} has no state_dict, so it is not a checkpoint of the Open Catalyst Project; it holds "
            f"{sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__}"
        )
    mean, std = _target_normaliser(content)
    state = {_without_prefixes(key): value for key, value in content["state_dict"].items()}
    return OCPCheckpoint(state, _model_arguments(content), mean, std)


def _plain_numpy() -> Any:
    """Allow numpy scalars, which published checkpoints hold among their metrics; they are data, not code."""
    if not hasattr(torch.serialization, "safe_globals"):
        return nullcontext()
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in "fdil"]
    return torch.serialization.safe_globals([(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *kinds])


def _without_prefixes(key: str) -> str:
    """The name without the `module.` that each wrapper for parallel training puts before it."""
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def _model_arguments(content: Mapping[str, Any]) -> Mapping[str, Any]:
    config = content.get("config")
    attributes = config.get("model_attributes", config.get("model")) if isinstance(config, Mapping) else None
    return attributes if isinstance(attributes, Mapping) else {}


def _target_normaliser(content: Mapping[str, Any]) -> tuple[float, float]:
    """Mean and standard deviation of the targets: from the normalisers, else from the data set's configuration."""
    normalisers = content.get("normalizers")
    target = normalisers.get("target") if isinstance(normalisers, Mapping) else None
    if isinstance(target, Mapping):
        return float(target["mean"]), float(target["std"])
    config = content.get("config")
    dataset = config.get("dataset") if isinstance(config, Mapping) else None
    if isinstance(dataset, list | tuple):
        dataset = dataset[0] if dataset else None
    if isinstance(dataset, Mapping) and dataset.get("normalize_labels") and "target_std" in dataset:
        return float(dataset["target_mean"]), float(dataset["target_std"])
    return 0.0, 1.0
