"""Predictions of structures as NumPy arrays: where tensors end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mekrr.backbones import Backbone
from mekrr.graph import build_batch
from mekrr.potential.archive import pack, unpack
from mekrr.potential.evaluate import Evaluated, Wanted, evaluate_graph
from mekrr.potential.fitted import Fitted
from mekrr.typing import Float, Tensor, ndarray


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted for one structure.

    Attributes:
        energy: total, eV.
        forces: eV/Angstrom; None when not asked for.
        stress: eV/Angstrom^3 in ASE's sign; None where not all three directions repeat, or when
            not asked for.
        atomic_energies: eV, adding up to the energy; None for the mean embedding, which has none.
        energy_std: calibrated standard deviation of the energy, eV; None when not asked for.
        atomic_energies_std: the same of each atom's energy; None when not asked for.
        forces_std: the same of each force component, eV/Angstrom; None when not asked for.
        backbone_energy: the backbone's own, unshifted; None when it has none.
        backbone_forces: the backbone's own; None when not asked for.
    """

    energy: float
    forces: Float[ndarray, "atoms 3"] | None = None
    stress: Float[ndarray, "3 3"] | None = None
    atomic_energies: Float[ndarray, "atoms"] | None = None
    energy_std: float | None = None
    atomic_energies_std: Float[ndarray, "atoms"] | None = None
    forces_std: Float[ndarray, "atoms 3"] | None = None
    backbone_energy: float | None = None
    backbone_forces: Float[ndarray, "atoms 3"] | None = None


@dataclass(frozen=True, eq=False)
class Predict:
    """Predictions of a batch of structures.

    Attributes:
        fitted: the potential.
        backbone: the network it was fitted with.
        wanted: quantities.
    """

    fitted: Fitted
    backbone: Backbone
    wanted: Wanted

    def __call__(self, batch: Sequence[Atoms]) -> list[Prediction]:
        """One a structure."""
        graph = build_batch(batch, self.backbone.cutoff, self.backbone.max_neighbours)
        found = evaluate_graph(self.fitted, self.backbone, graph, self.wanted)
        return predictions_of(found, atomic=self.fitted.embedding == "sum")

    def __getstate__(self) -> dict[str, Any]:
        """The potential as in the model file: what it has kept for itself stays here."""
        return vars(self) | {"fitted": pack(self.fitted)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"fitted": unpack(*state["fitted"])})


def predictions_of(found: Evaluated, atomic: bool = True) -> list[Prediction]:
    """An evaluated batch cut into predictions, one a structure.

    Args:
        found: of the batch.
        atomic: whether atomic energies have a meaning (not with the mean embedding).
    """
    cut = _Cut(found.graph.n_atoms.tolist())
    energies = cut(found.atomic_energies)
    stress = None if found.stress is None else found.stress.cpu().numpy()
    own = cut(found.backbone_atomic_energies)
    columns = zip(
        energies,
        cut(found.forces),
        cut(found.atomic_std),
        cut(found.forces_std),
        own,
        cut(found.backbone_forces),
        strict=True,
    )
    return [
        Prediction(
            energy=float(e.sum()),
            forces=f,
            stress=None if stress is None or np.isnan(stress[t]).any() else stress[t],
            atomic_energies=e if atomic else None,
            energy_std=None if found.energy_std is None else float(found.energy_std[t]),
            atomic_energies_std=e_std,
            forces_std=f_std,
            backbone_energy=None if b is None else float(b.sum()),
            backbone_forces=b_forces,
        )
        for t, (e, f, e_std, f_std, b, b_forces) in enumerate(columns)
    ]


class _Cut:
    """Cuts a tensor of atoms into arrays of structures, or repeats None."""

    def __init__(self, n_atoms: list[int]) -> None:
        self.n_atoms = n_atoms

    def __call__(self, values: Tensor | None) -> list:
        if values is None:
            return [None] * len(self.n_atoms)
        return np.split(values.cpu().numpy(), np.cumsum(self.n_atoms)[:-1])
