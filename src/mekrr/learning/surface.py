"""What atoms move on: the network alone before there are enough labels, a potential after, made exact at one label."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr.backbones import Backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.calculators import DEFAULT_SKIN
from mekrr.graph import SkinnedGraph
from mekrr.typing import Float, ndarray


class BackboneCalculator(AseCalculator):
    """The backbone's own energy, forces and stress: the foundation network as it was published.

    Args:
        backbone: with an energy.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (ASE declares it so)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._graph = SkinnedGraph(backbone.cutoff, DEFAULT_SKIN, backbone.max_neighbours)

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Fill `results` by one pass."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        found = energy_forces_stress(self.backbone, self._graph.batch(self.atoms))
        energy = float(found.energies[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": found.forces.cpu().numpy()}
        stress = found.stress[0].cpu().numpy()
        if np.isfinite(stress).all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        elif list(properties or ()) == ["stress"]:
            raise PropertyNotImplementedError("stress needs a structure that repeats in all three directions")


class ExactAt(AseCalculator):
    """A surface plus what makes its energy and forces those of a label there.

    The correction is e - f . (x - x0), e and f the errors of energy and forces at the label x0: the additive
    first-order correction of multifidelity optimisation (Alexandrov et al., J. Aircraft 38, 1093, 2001), under which a
    minimum of the surface that is found at x0 is one of DFT. With a width it is multiplied by exp(-|x - x0|^2 / 2
    width^2).

    Args:
        surface: to be corrected.
        origin: x0.
        energy: label minus surface there, eV.
        forces: label minus surface there, eV/Angstrom.
        width: Angstrom; None for no end of the correction.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE declares it so)

    def __init__(
        self,
        surface: AseCalculator,
        origin: Float[ndarray, "atoms 3"],
        energy: float,
        forces: Float[ndarray, "atoms 3"],
        width: float | None = None,
    ) -> None:
        super().__init__()
        self.surface = surface
        self.origin = origin
        self._energy = energy
        self._forces = forces
        self._width = width

    @staticmethod
    def label(
        surface: AseCalculator,
        atoms: Atoms,
        energy: float,
        forces: Float[ndarray, "atoms 3"],
        width: float | None = None,
    ) -> "ExactAt":
        """With the errors of a surface at a labelled structure."""
        own = float(surface.get_property("energy", atoms)), np.array(surface.get_property("forces", atoms))
        return ExactAt(surface, atoms.positions.copy(), energy - own[0], forces - own[1], width)

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Fill `results`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        # positions as they move: a relaxation does not wrap atoms, and images of a path were unwrapped before
        move = self.atoms.positions - self.origin
        energy, forces = self._energy - float((self._forces * move).sum()), self._forces
        if self._width is not None:
            damping = float(np.exp(-(move**2).sum() / (2 * self._width**2)))
            forces = damping * (forces + energy * move / self._width**2)
            energy = damping * energy
        own = self.surface
        total = float(own.get_property("energy", self.atoms)) + energy
        self.results: dict[str, Any] = {
            "energy": total,
            "free_energy": total,
            "forces": own.get_property("forces", self.atoms) + forces,
        }


def free_forces(like: Atoms, positions: Float[ndarray, "atoms 3"], forces: Float[ndarray, "atoms 3"]) -> ndarray:
    """Forces under the constraints of a structure, at positions."""
    moved = like.copy()
    moved.set_positions(positions, apply_constraint=False)
    kept = np.array(forces, dtype=float)
    for constraint in like.constraints:
        constraint.adjust_forces(moved, kept)
    return kept


def largest(forces: Float[ndarray, "atoms 3"]) -> float:
    """The largest force on an atom, eV/Angstrom."""
    return float(np.linalg.norm(forces, axis=1).max())
