"""A SevenNet with changed weights as a checkpoint of sevenn: read by its calculator and LAMMPS styles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mekrr.files import atomic_path
from mekrr.typing import Tensor

_SHIFT = "rescale_atomic_energy.shift"


def write_checkpoint(source: Path, layers: Mapping[str, Any], shifts: Mapping[int, float], target: Path) -> None:
    """Write the source again with the weights of other layers and with shifts added.

    Args:
        source: the checkpoint that the network was built from, read as it was then: checked by hash, or trusted.
        layers: e3nn Linear modules by the name of the module of sevenn that holds them.
        shifts: eV, by atomic number, added to those of the checkpoint.
        target: the file to write.

    Raises:
        ValueError: when the source names its weights or shifts in another way, or has no shift for each element.
        OSError: when the file cannot be written.
    """
    checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    state, types = checkpoint["model_state_dict"], checkpoint["config"]["_type_map"]
    names = {f"{name}.linear.weight": module.weight for name, module in layers.items()}
    missing = [name for name in (*names, _SHIFT) if name not in state]
    if missing or len(types) != state[_SHIFT].shape[-1]:
        raise ValueError(f"{source} is of a form that cannot be written again: no {', '.join(missing) or 'shifts'}")
    for name, weight in names.items():
        state[name] = weight.detach().cpu().to(state[name].dtype).reshape(state[name].shape).clone()
    state[_SHIFT] = _shifted(state[_SHIFT], types, shifts)
    # what its own training would go on from belongs to the old weights
    fresh = checkpoint | {"optimizer_state_dict": {}, "scheduler_state_dict": {}}
    with atomic_path(target) as path:
        torch.save(fresh, path)


def _shifted(old: Tensor, types: Mapping[int, int], shifts: Mapping[int, float]) -> Tensor:
    found = old.double().clone()
    for z, shift in shifts.items():
        found[..., types[z]] += shift
    return found.to(old.dtype)
