"""torch-sim: the potential as a model, for many systems at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mekrr.dynamics.watch import Watch, WatchOptions
from mekrr.engines.evaluator import Evaluator, Found
from mekrr.errors import EngineError
from mekrr.potential import KernelPotential, Wanted
from mekrr.typing import Tensor

INSTALL = 'pip install "mekrr[torch-sim]"'

FIELDS = ("positions", "cell", "atomic_numbers", "system_idx", "pbc")
"""Of a state, that are read."""

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise EngineError(f"torch-sim is not installed here ({error}): {INSTALL}") from error


class MekrrModel(ModelInterface):
    """A fitted potential as a model of torch-sim: energies, forces, stress and deviations of all systems of a state.

    One pass for all of them, cut where a batch would be too large. Neighbour lists are kept from call to call while the
    systems stay in their order, and made anew where they do not. A system of its own counts as a state of its own for
    the watch, which counts calls as steps.

    Args:
        potential: a fitted potential, or the path of a model file.
        watch: of the deviation of each system's energy; a stop is a `ThresholdPassedError`.
        dtype: of what comes back.
        threads: see Evaluator.
        device: for a path: where the backbone computes, and the device of what comes back.
        trust_checkpoint: see Evaluator.

    Attributes:
        watch: figures of the deviations so far.

    Raises:
        ValueError, FileNotFoundError, ModelFileError: see Evaluator.
    """

    def __init__(
        self,
        potential: KernelPotential | str | Path,
        watch: WatchOptions = WatchOptions(),  # noqa: B008 (frozen)
        dtype: torch.dtype = torch.float64,
        threads: int = 1,
        device: str = "auto",
        trust_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        wanted = Wanted(energy_std=watch.deviations)
        self._evaluator = Evaluator(potential, wanted, threads, device=device, trust_checkpoint=trust_checkpoint)
        self.watch = Watch(watch, self._evaluator.potential.fitted_.record)
        self._device = self._evaluator.potential.backbone.device
        self._dtype = dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_atoms_x_density"
        self._calls = 0

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energies and what belongs to them, by name.

        Args:
            state: of torch-sim, or a mapping with its fields; Angstrom.

        Returns:
            `energy` (systems,), `forces` (atoms, 3), `stress` (systems, 3, 3), `energies` (atoms,) and, with
            deviations, `energy_std` (systems,), in eV and Angstrom. The stress of a system is NaN unless it
            repeats in all three directions.

        Raises:
            DataError: for elements the potential cannot treat.
            UnstableError: when an energy or force is not finite.
            ThresholdPassedError: when the watch asks for a stop.
        """
        systems = structures_of(state)
        found = self._evaluator(systems)
        for atoms, one in zip(systems, found, strict=True):
            self.watch.see_or_raise(atoms, one, self._calls)
        self._calls += 1
        return self._outputs(systems, found)

    def _outputs(self, systems: list[Atoms], found: list[Found]) -> dict[str, Tensor]:
        results: dict[str, Any] = {
            "energy": [one.energy for one in found],
            "forces": np.concatenate([one.forces for one in found]),
            "energies": np.concatenate([one.atomic_energies for one in found]),
            "stress": np.stack([_stress(atoms, one) for atoms, one in zip(systems, found, strict=True)]),
        }
        if self._evaluator.wanted.energy_std:
            results["energy_std"] = [one.energy_std for one in found]
        return {name: torch.as_tensor(v, dtype=self._dtype, device=self._device) for name, v in results.items()}


def structures_of(state: Any) -> list[Atoms]:
    """The systems of a state, in order.

    Args:
        state: of torch-sim, or a mapping with its fields. Cells have their vectors in columns, as torch-sim has them.
    """
    fields = state if isinstance(state, Mapping) else {name: getattr(state, name) for name in FIELDS}
    positions, cells, numbers, owner = (
        torch.as_tensor(fields[name]).detach().cpu().numpy()
        for name in ("positions", "cell", "atomic_numbers", "system_idx")
    )
    periodic = np.broadcast_to(torch.as_tensor(fields["pbc"]).cpu().numpy(), 3)
    ends = np.cumsum(np.bincount(owner, minlength=len(cells)))[:-1]
    return [
        Atoms(z, positions=r, cell=cell.T, pbc=periodic)
        for z, r, cell in zip(
            np.split(numbers, ends), np.split(positions.astype(np.float64), ends), cells.astype(np.float64), strict=True
        )
    ]


def _stress(atoms: Atoms, found: Found) -> Any:
    volume = abs(np.linalg.det(atoms.cell.array))
    return -found.virial / volume if volume > 0 and atoms.pbc.all() else np.full((3, 3), np.nan)
