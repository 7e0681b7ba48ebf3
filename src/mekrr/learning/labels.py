"""One label: a structure with what the calculator found, and with what had been predicted before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.data import LabelKeys, Structure, from_ase, raise_on_errors, validate
from mekrr.errors import DataError
from mekrr.learning.labeller import bare
from mekrr.typing import Float, ndarray


@dataclass(frozen=True, eq=False)
class Ask:
    """A structure to be labelled.

    Attributes:
        number: of the ask, counted from 0 within a run; failed ones count too.
        atoms: with constraints, and momenta in dynamics.
        why: in words: "start", "the saddle", ...
        before: what is predicted for it: energy (eV), forces (eV/Angstrom), energy_std (eV) and force_std (eV/Angstrom,
            root mean square over components); what is missing is unknown.
        info: of the driver's, kept with the label.
    """

    number: int
    atoms: Atoms
    why: str
    before: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For ASE's JSON."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class Label:
    """A labelled structure.

    Attributes:
        number: of its ask.
        frame: as it stands in the file of labels.
        structure: what fits get.
    """

    number: int
    frame: Atoms
    structure: Structure

    @staticmethod
    def of(frame: Atoms, source: str, index: int) -> "Label":
        """From a frame of the file of labels, with the energy whose derivatives its forces are."""
        keys = LabelKeys(energy="free_energy" if "free_energy" in frame.calc.results else "energy")
        structure = from_ase(frame, keys, source, index)
        return Label(int(frame.info["label"]), frame, structure)

    @property
    def energy(self) -> float:
        """EV."""
        assert self.structure.energy is not None
        return self.structure.energy

    @property
    def forces(self) -> Float[ndarray, "atoms 3"]:
        """Of free atoms, eV/Angstrom."""
        assert self.structure.forces is not None
        return self.structure.forces

    @property
    def results(self) -> dict[str, Any]:
        """Under ASE's names, with one energy: the one that the forces are the gradient of."""
        assert self.frame.calc is not None
        return self.frame.calc.results | {"energy": self.energy, "free_energy": self.energy}

    @property
    def force_error(self) -> float | None:
        """Root mean square error of the forces predicted before, eV/Angstrom."""
        before = self.frame.arrays.get("before_forces")
        return None if before is None else float(np.sqrt(np.mean((self.forces - before) ** 2)))

    @property
    def force_deviation(self) -> float | None:
        """Root mean square of the deviations predicted before, eV/Angstrom."""
        found = self.frame.info.get("before_force_std")
        return None if found is None else float(found)

    def surprise(self, own: bool = False) -> float | None:
        """Error of the forces over their deviation as the potential had it, before any correction.

        Args:
            own: of the forces that are the potential's own, not of those of a surface that is exact at a label.
        """
        error, deviation = self.force_error, self.force_deviation
        if error is None or not deviation:
            return None
        if own and "before_own_forces" in self.frame.arrays:
            error = float(np.sqrt(np.mean((self.forces - self.frame.arrays["before_own_forces"]) ** 2)))
        return error / deviation * float(self.frame.info.get("before_correction", 1.0))

    @property
    def seconds(self) -> float:
        """Of the calculator."""
        return float(self.frame.info["seconds"])


def stiffness(labels: Sequence[Label]) -> dict[int, float]:
    """How much larger forces on each element are than those on all atoms, root mean squares; 1 where they are smaller.

    Errors are larger where forces are: on an atom of a molecule's stiff bonds one of the same size means less than on
    one of a metal.
    """
    forces = np.concatenate([label.forces for label in labels])
    species = np.concatenate([label.structure.species for label in labels])
    everywhere = np.mean(forces**2)
    if not everywhere > 0.0:
        return {}
    squares = {int(z): np.mean(forces[species == z] ** 2) / everywhere for z in np.unique(species)}
    return {z: max(1.0, float(np.sqrt(square))) for z, square in squares.items()}


def frame_of(ask: Ask, results: dict[str, Any], seconds: float) -> Atoms:
    """The frame that goes into the file of labels.

    Raises:
        DataError: when the results are no labels: not finite, of another shape, or refused as they would be in a file.
    """
    frame = bare(ask.atoms)
    if ask.atoms.has("momenta"):
        frame.set_momenta(ask.atoms.get_momenta(), apply_constraint=False)
    frame.info |= {"label": ask.number, "why": ask.why, "seconds": round(seconds, 3)} | ask.info
    before = ask.before
    for name in ("energy", "energy_std", "force_std", "correction"):
        if before.get(name) is not None:
            frame.info[f"before_{name}"] = float(before[name])
    for name in ("forces", "own_forces"):
        if before.get(name) is not None:
            frame.arrays[f"before_{name}"] = np.asarray(before[name], dtype=float)
    require_label(ask.atoms, results)
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def require_label(atoms: Atoms, results: dict[str, Any]) -> None:
    """Refuse what is no label, by the rules for files.

    Raises:
        DataError: in one sentence.
    """
    forces = results.get("forces")
    if results.get("energy") is None or forces is None:
        missing = "energy" if results.get("energy") is None else "forces"
        raise DataError(f"the calculator returned no {missing}; both energy and forces are needed")
    if np.shape(forces) != (len(atoms), 3):
        raise DataError(f"the calculator returned forces of shape {np.shape(forces)} for {len(atoms)} atoms")
    bad = np.flatnonzero(~np.isfinite(np.asarray(forces)).all(axis=1))
    if len(bad):
        raise DataError(f"the calculator returned a force on atom {bad[0]} that is not finite")
    if not np.isfinite(results["energy"]):
        raise DataError(f"the calculator returned the energy {results['energy']}")
    geometry = bare(atoms)
    geometry.calc = SinglePointCalculator(geometry, **results)
    structure = from_ase(geometry, source="the calculator")
    raise_on_errors(validate([structure]))
