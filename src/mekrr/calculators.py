"""An ASE calculator: relaxations and molecular dynamics with a fitted potential."""

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr.backbones import Backbone
from mekrr.data.reading.electrons import charge_and_spin
from mekrr.graph import SkinnedGraph
from mekrr.potential import Fitted, KernelPotential, MekrrWarning, Wanted, evaluate_graph
from mekrr.potential.prediction import predictions_of

DEFAULT_SKIN = 0.5  # Angstrom


def warn_of_jumps(backbone: Backbone) -> None:
    """Say where the energy is not continuous, which dynamics will meet."""
    reasons = []
    if backbone.max_neighbours is not None:
        reasons.append(
            f"keeps the {backbone.max_neighbours} nearest neighbours of an atom: the energy jumps where a neighbour "
            "enters or leaves them"
        )
    if backbone.jumps:
        reasons.append(f"{backbone.jumps}: the energy jumps where a neighbour comes within {backbone.cutoff:g} Å")
    for reason in reasons:
        said = f"{backbone.name} {reason}, so dynamics do not conserve energy exactly"
        warnings.warn(said, MekrrWarning, stacklevel=3)


class Results(dict[str, Any]):
    """ASE's results, and beside them what ASE has no name for: it is looked up alike, but not among the items.

    `SinglePointCalculator(atoms, **calc.results)` refuses names that are not ASE's own, so `energy_std` is no item.

    Args:
        results: under ASE's names.
        beside: under others.
    """

    def __init__(self, results: dict[str, Any], beside: dict[str, Any]) -> None:
        super().__init__(results)
        self.beside = beside

    def __missing__(self, name: str) -> Any:
        return self.beside[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.beside

    def get(self, name: str, default: Any = None) -> Any:
        """The value under either kind of name."""
        return self[name] if name in self else default  # noqa: SIM401 (this is that method)


class Calculator(AseCalculator):
    """Energy, forces, stress, atomic energies and the energy's deviation from one pass.

    The energy is the one the training labels had; `free_energy` is the same number, so that its gradient are the forces
    for every ASE optimiser. `results["energy_std"]` is there when `uncertainty` is True; it is no item of `results`, so
    that `SinglePointCalculator(atoms, **calc.results)` holds what ASE knows.

    Threads may share a calculator or its potential: `get_property` is done by one thread at a time. It can be pickled
    and copied; the potential travels with it, the network is loaded again where it arrives.

    Args:
        potential: a fitted potential, or the path of a model file.
        uncertainty: compute the energy's calibrated standard deviation at every step.
        skin: Angstrom; the neighbour list is rebuilt only when an atom has moved more than half of it.
        device: for a path: where the backbone computes.
        trust_checkpoint: for a path: see KernelPotential.

    Raises:
        FileNotFoundError, ModelFileError: see KernelPotential.load.
        DataError: on calculation, for elements the potential cannot treat.
        PropertyNotImplementedError: when the stress alone is asked for and not all three directions repeat.
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
        self.skin = skin
        warn_of_jumps(potential.backbone)
        self._make_own()

    def _make_own(self) -> None:
        """What belongs to this object in this process."""
        self._lock = threading.RLock()
        self._take_up()

    def _take_up(self) -> None:
        """What hangs on the fit, which an update of the potential replaces."""
        self._fitted: Fitted | None = getattr(self.potential, "fitted_", None)
        backbone = self.potential.backbone
        self._graph = SkinnedGraph(backbone.cutoff, self.skin, backbone.max_neighbours)
        self._checked: bytes = b""

    def _is_stale(self) -> bool:
        """Whether the results are those of another fit."""
        return self._fitted is not getattr(self.potential, "fitted_", None)

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, the neighbour list and what another fit found."""
        own = ("_lock", "_graph", "_checked", "_fitted")
        state = {name: value for name, value in vars(self).items() if name not in own}
        return state | ({"atoms": None, "results": {}} if self._is_stale() else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_own()

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """See ASE. One thread at a time: between checking the atoms and reading the results nothing may change."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """See ASE, which looks neither at charge and spin, which a network may read, nor at the potential."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None and repr(charge_and_spin(atoms)) != repr(charge_and_spin(self.atoms)):
            changes.append("info")
        if self.atoms is not None and self._is_stale():
            changes.append("potential")
        return changes

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Fill `results`; everything comes from one pass, whatever is asked for."""
        super().calculate(atoms, properties, system_changes)
        if self._is_stale():
            self._take_up()
        assert self.atoms is not None
        self._check_species(self.atoms)
        deviation = self.uncertainty or "energy_std" in (properties or ())
        potential = self.potential
        fitted, graph = potential.fitted_, self._graph.batch(self.atoms)
        evaluated = evaluate_graph(fitted, potential.backbone, graph, Wanted(energy_std=deviation))
        (found,) = predictions_of(evaluated, atomic=fitted.embedding == "sum")
        results: dict[str, Any] = {"energy": found.energy, "free_energy": found.energy, "forces": found.forces}
        if found.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(found.stress)
        if found.atomic_energies is not None:
            results["energies"] = found.atomic_energies
        self.results = Results(results, {} if found.energy_std is None else {"energy_std": found.energy_std})
        # Programs ask for all they know at once; a molecule has no stress, and its energy and forces are there.
        if found.stress is None and list(properties or ()) == ["stress"]:
            raise PropertyNotImplementedError("stress needs a structure that repeats in all three directions")

    def _check_species(self, atoms: Atoms) -> None:
        """Once for each composition, charge and spin, not at each step."""
        key = np.sort(atoms.numbers).tobytes() + repr(charge_and_spin(atoms)).encode()
        if key != self._checked:
            self.potential.check_species([atoms])
            self._checked = key
