"""An ASE calculator: relaxations and molecular dynamics with a fitted potential."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr.graph import SkinnedGraph
from mekrr.potential import KernelPotential, MekrrWarning, Wanted, evaluate_graph
from mekrr.potential.prediction import predictions_of

DEFAULT_SKIN = 0.5  # Angstrom


class Calculator(AseCalculator):
    """Energy, forces, stress, atomic energies and the energy's deviation from one pass.

    The energy is the one the training labels had; `free_energy` is the same number, so that its gradient are the forces
    for every ASE optimiser. `results["energy_std"]` is there when `uncertainty` is True.

    Args:
        potential: a fitted potential, or the path of a model file.
        uncertainty: compute the energy's calibrated standard deviation at every step.
        skin: Angstrom; the neighbour list is rebuilt only when an atom has moved more than half of it.
        device: for a path: where the backbone computes.
        trust_checkpoint: for a path: see KernelPotential.

    Raises:
        FileNotFoundError, ModelFileError: see KernelPotential.load.
        DataError: on calculation, for elements the potential cannot treat.
    """

    implemented_properties = [  # noqa: RUF012 (ASE declares it so)
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energies",
        "energy_std",
    ]

    def __init__(
        self,
        potential: KernelPotential | str | Path,
        uncertainty: bool = False,
        skin: float = DEFAULT_SKIN,
        device: str = "auto",
        trust_checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(potential, KernelPotential):
            potential = KernelPotential.load(potential, device, trust_checkpoint)
        self.potential = potential
        self.uncertainty = uncertainty
        backbone = potential.backbone
        if backbone.max_neighbours is not None:
            warnings.warn(
                f"{backbone.name} keeps the {backbone.max_neighbours} nearest neighbours of an atom: the energy jumps "
                "where a neighbour enters or leaves them, so dynamics do not conserve energy exactly",
                MekrrWarning,
                stacklevel=2,
            )
        self._graph = SkinnedGraph(backbone.cutoff, skin, backbone.max_neighbours)
        self._checked: bytes = b""

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Fill `results`; everything comes from one pass, whatever is asked for."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self._check_species(self.atoms)
        deviation = self.uncertainty or "energy_std" in (properties or ())
        potential = self.potential
        fitted, graph = potential.fitted_, self._graph.batch(self.atoms)
        evaluated = evaluate_graph(fitted, potential.backbone, graph, Wanted(energy_std=deviation))
        (found,) = predictions_of(evaluated, atomic=fitted.embedding == "sum")
        self.results = {"energy": found.energy, "free_energy": found.energy, "forces": found.forces}
        if found.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(found.stress)
        elif "stress" in (properties or ()):
            raise PropertyNotImplementedError("stress needs a structure with three lattice vectors")
        if found.atomic_energies is not None:
            self.results["energies"] = found.atomic_energies
        if found.energy_std is not None:
            self.results["energy_std"] = found.energy_std

    def _check_species(self, atoms: Atoms) -> None:
        """Once for each composition, not at each step."""
        numbers = np.sort(atoms.numbers).tobytes()
        if numbers != self._checked:
            self.potential.check_species([atoms])
            self._checked = numbers
