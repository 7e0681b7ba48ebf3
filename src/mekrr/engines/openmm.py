"""OpenMM: the potential as a `PythonForce`, which can be serialised, its deviations watched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from mekrr.data.reading.electrons import electrons
from mekrr.dynamics.watch import Watch, WatchOptions
from mekrr.engines.boxes import Boxes
from mekrr.engines.evaluator import Evaluator
from mekrr.errors import EngineError
from mekrr.potential import KernelPotential, Wanted
from mekrr.typing import Float, ndarray

PER_EV = units.mol / units.kJ
"""OpenMM's unit of energy, kJ/mol, for one eV."""

INSTALL = 'pip install "mekrr[openmm]", or pip install openmm'


def import_openmm() -> Any:
    """The module `openmm`.

    Raises:
        EngineError: when it is not installed, or too old.
    """
    try:
        import openmm
    except ImportError as error:
        raise EngineError(f"OpenMM is not installed here ({error}): {INSTALL}") from error
    if not hasattr(openmm, "PythonForce"):
        raise EngineError(f"OpenMM {openmm.__version__} has no PythonForce, which is there from 8.4 on: {INSTALL}")
    return openmm


class Interaction:
    """What OpenMM calls at each step: a state to energy and forces.

    It can be pickled, and so a system that contains it can be serialised: a potential travels with it, a path stays a
    path. What was watched begins anew where it arrives; structures to be labelled are added to the file of before.

    Args:
        potential: a fitted potential, or the path of a model file.
        template: elements of the particles that the potential is for, in their order, and periodicity; see Boxes.
        watch: what to watch for; steps are evaluations.
        threads: that PyTorch may use.
        device: for a path: where the backbone computes.
        trust_checkpoint: for a path: see KernelPotential.

    Attributes:
        watch: over the deviations.
        n_evaluations: so far.

    Raises:
        EngineError: when OpenMM is not installed, or too old.
        DataError: for elements that the potential cannot treat.
        FileNotFoundError, ModelFileError, ValueError: see Evaluator and Watch.
    """

    watch: Watch
    n_evaluations: int

    def __init__(
        self,
        potential: KernelPotential | str | Path,
        template: Atoms,
        watch: WatchOptions = WatchOptions(),  # noqa: B008 (frozen)
        threads: int = 1,
        device: str = "auto",
        trust_checkpoint: bool = False,
    ) -> None:
        bare = Atoms(
            template.numbers, template.positions, cell=template.cell, pbc=template.pbc, info=electrons(template)
        )
        self._given = (potential, bare, watch, threads, device, trust_checkpoint)
        self._begin(continued=False)

    def _begin(self, continued: bool) -> None:
        """What belongs to this object in this process; `continued`: see Watch."""
        potential, template, watch, threads, device, trust = self._given
        import_openmm()
        if not isinstance(potential, KernelPotential):
            potential = KernelPotential.load(potential, device, trust)
        self._evaluator = Evaluator(potential, Wanted(energy_std=watch.deviations), threads)
        self._evaluator.check(template)
        self._boxes = Boxes(template, self._evaluator.cutoff, "OpenMM")
        self._periodic = bool(template.pbc.any())
        self.watch = Watch(watch, potential.fitted_.record, continued)
        self.n_evaluations = 0

    def __getstate__(self) -> dict[str, Any]:
        """What it was made from."""
        return {"_given": self._given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._given = state["_given"]
        self._begin(continued=True)

    def force(self, particles: Sequence[int] = ()) -> Any:
        """An `openmm.PythonForce`, to be added to a system.

        Args:
            particles: which of the system the potential is for; none named: all.
        """
        force = import_openmm().PythonForce(self)
        force.setName("mekrr")
        force.setUsesPeriodicBoundaryConditions(self._periodic)
        if len(particles):
            force.setParticles([int(k) for k in particles])
        return force

    def __call__(self, state: Any) -> tuple[float, Float[ndarray, "atoms 3"]]:
        """Energy in kJ/mol and forces in kJ/mol/nm of an `openmm.State`.

        OpenMM turns errors into its own `OpenMMException` of the same words.

        Raises:
            DataError: see Boxes.structure.
            EngineError: past the threshold, when the watch is to stop there.
            ValueError: when atoms coincide.
            UnstableError: when an energy or force is not finite.
            OSError: when a structure to be labelled cannot be written.
        """
        angstrom = import_openmm().unit.angstrom
        positions = np.asarray(state.getPositions(asNumpy=True).value_in_unit(angstrom))
        box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(angstrom)) if self._periodic else None
        atoms = self._boxes.structure(positions, box)
        (found,) = self._evaluator([atoms])
        self.n_evaluations += 1
        if self.watch.see(atoms, found, self.n_evaluations):
            raise EngineError(
                f"evaluation {self.n_evaluations}: the deviation of the energy, {found.deviation:.3g} meV/atom, passed "
                f"the threshold of {self.watch.figures.threshold:.3g}"
            )
        return found.energy * PER_EV, found.forces * (10 * PER_EV)
