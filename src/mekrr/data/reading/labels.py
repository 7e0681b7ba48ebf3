"""Energies, forces and stress wherever a file keeps them: from ase.Atoms to `Structure`.

Where a label is looked for, first hit wins:

1. the key the user names in `LabelKeys`, among calculator results, then `info`, then `arrays`;
2. calculator results under ASE's own names;
3. well-known keys in `info` and `arrays` (`REF_energy`, `dft_forces`, `virial`, ...), whatever their case.

Energy and free energy. Codes with electronic smearing give two: `energy`, extrapolated to zero smearing, and
`free_energy`, whose derivative the forces are. A potential needs energies and forces of one surface, so a structure
with forces takes `free_energy` where the calculator has both, and one without forces takes `energy`.
`LabelKeys(energy=...)` overrides this.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from mekrr.data.reading.structure import Structure
from mekrr.data.reading.units import energy_factor, force_factor, length_factor, stress_factor
from mekrr.errors import DataError

ENERGY_KEYS = (
    "ref_energy",
    "dft_energy",
    "energy_ref",
    "energy_dft",
    "total_energy",
    "totenergy",
    "corrected_total_energy",
    "energy",
    "free_energy",
)
FORCES_KEYS = ("ref_forces", "ref_force", "dft_forces", "dft_force", "forces_ref", "forces_dft", "forces", "force")
STRESS_KEYS = ("ref_stress", "dft_stress", "stress")
VIRIAL_KEYS = ("ref_virial", "ref_virials", "dft_virial", "dft_virials", "virial", "virials")

FOUND = "mekrr_keys"
"""Key of `Structure.info` under which the reader records where each label came from."""


@dataclass(frozen=True)
class LabelKeys:
    """Names and units of the labels in a file; None looks in the usual places (see the module's text).

    Attributes:
        energy: key of the total energy.
        forces: key of the forces, shape (atoms, 3).
        stress: key of the stress in ASE's sign: shape (3, 3), 9 numbers, or 6 in Voigt order xx yy zz yz xz xy.
        virial: key of the virial (-volume times stress), in the unit of the energy; read where there is no stress.
        weight: key of the weight of a structure; structures without it weigh 1.
        energy_unit: eV, meV, Ha, Ry, kcal/mol or kJ/mol.
        length_unit: of positions and cell: Angstrom, Bohr or nm.
        forces_unit: None means energy_unit over length_unit.
        stress_unit: GPa, kbar, ...; None means energy_unit over length_unit cubed.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None
    weight: str | None = None
    energy_unit: str = "eV"
    length_unit: str = "Angstrom"
    forces_unit: str | None = None
    stress_unit: str | None = None

    def factors(self) -> dict[str, float]:
        """Factors from the file's units to eV and Angstrom, by label.

        Raises:
            DataError: for a unit that is not known.
        """
        return {
            "energy": energy_factor(self.energy_unit),
            "virial": energy_factor(self.energy_unit),
            "length": length_factor(self.length_unit),
            "forces": force_factor(self.forces_unit or f"{self.energy_unit}/{self.length_unit}"),
            "stress": stress_factor(self.stress_unit or f"{self.energy_unit}/{self.length_unit}^3"),
        }


def from_ase(atoms: Atoms, keys: LabelKeys | None = None, source: str = "", index: int = 0) -> Structure:
    """The structure in `atoms` with the labels stored in it; no calculation is started and constraints are ignored.

    Args:
        atoms: its calculator, if any, is only asked for results that belong to the present positions.
        keys: where the labels are and in which units.
        source: the file, for messages.
        index: position in that file.

    Raises:
        DataError: when a label is not a number or has the wrong shape.
    """
    keys = keys or LabelKeys()
    where = f"{source or 'structure'}, index {index} ({atoms.get_chemical_formula()})"
    drawer = _Drawer(atoms, where)
    factors = keys.factors()
    forces_key = drawer.find(keys.forces, ("forces",), FORCES_KEYS)
    energy_names = ("free_energy", "energy") if forces_key else ("energy", "free_energy")
    energy_key = drawer.find(keys.energy, energy_names, ENERGY_KEYS)
    stress_key = drawer.find(keys.stress, ("stress",), STRESS_KEYS)
    virial_key = drawer.find(keys.virial, (), VIRIAL_KEYS)
    geometry = _geometry(atoms, factors["length"], drawer.used_arrays([forces_key]))
    stress_key, stress = _stress(drawer, stress_key, virial_key, factors, geometry)
    found = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    others = drawer.numbers_beside(energy_key, ENERGY_KEYS, factors["energy"])
    return Structure(
        atoms=geometry,
        energy=drawer.number(energy_key, factors["energy"]),
        forces=drawer.array(forces_key, factors["forces"], {(len(atoms), 3)}),
        stress=stress,
        weight=_weight(atoms, keys.weight, where),
        info=drawer.other_info([energy_key, stress_key]) | {FOUND: found | {"other_energies": others}},
        source=source,
        index=index,
    )


def as_structures(
    items: Sequence[Structure | Atoms] | Structure | Atoms, keys: LabelKeys | None = None
) -> list[Structure]:
    """The items as structures: ase.Atoms are converted with `from_ase`, structures are passed on.

    Raises:
        DataError: for an item that is neither.
    """
    if isinstance(items, Structure | Atoms):
        items = [items]
    return [_as_structure(item, keys, i) for i, item in enumerate(items)]


def _as_structure(item: Structure | Atoms, keys: LabelKeys | None, index: int) -> Structure:
    if isinstance(item, Structure):
        return item
    if isinstance(item, Atoms):
        return from_ase(item, keys, index=index)
    raise DataError(f"item {index} is a {type(item).__name__}: give ase.Atoms or mekrr.Structure, or read a file first")


def keys_beside_labels(structure: Structure) -> str:
    """The keys that were found besides the labels, in words, for a message about a label that is missing."""
    arrays = set(structure.atoms.arrays) - {"numbers", "positions"}
    keys = sorted(set(structure.info) - {FOUND}) + sorted(arrays)
    return f"keys found: {', '.join(keys)}" if keys else "no other keys were found"


class _Drawer:
    """Everything one `Atoms` object holds, under keys "calc:energy", "info:REF_energy", "arrays:dft_forces"."""

    def __init__(self, atoms: Atoms, where: str) -> None:
        self.where = where
        self.places: dict[str, Mapping[str, Any]] = {
            "calc": _stored_results(atoms),
            "info": {k: v for k, v in atoms.info.items() if k != FOUND},
            "arrays": {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")},
        }

    def find(self, named: str | None, results: Sequence[str], known: Sequence[str]) -> str | None:
        """Key of the first hit, or None."""
        if named is not None:
            hits = (f"{place}:{named}" for place, content in self.places.items() if named in content)
            return next(hits, None)
        return next(self._candidates(results, known), None)

    def _candidates(self, results: Sequence[str], known: Sequence[str]) -> Iterator[str]:
        yield from (f"calc:{name}" for name in results if name in self.places["calc"])
        for place in ("info", "arrays"):
            spelled = {key.lower(): key for key in self.places[place] if isinstance(key, str)}
            yield from (f"{place}:{spelled[name]}" for name in known if name in spelled)

    def __getitem__(self, key: str) -> Any:
        place, _, name = key.partition(":")
        return self.places[place][name]

    def number(self, key: str | None, factor: float) -> float | None:
        """The value under `key` times `factor`."""
        value = self.array(key, factor, {(), (1,)})
        return None if value is None else float(value.reshape(()))

    def array(self, key: str | None, factor: float, shapes: set[tuple[int, ...]]) -> np.ndarray | None:
        """The float64 array under `key` times `factor`."""
        if key is None or self[key] is None:
            return None
        value = self._numeric(key)
        if value.shape not in shapes:
            expected = " or ".join(map(str, sorted(shapes, key=str)))
            raise DataError(
                f"{self.where}: {key} has shape {value.shape}, expected {expected}; correct it or name another key"
            )
        return np.asarray(value * factor)

    def _numeric(self, key: str) -> np.ndarray:
        """The value under `key` in float64; a truth value, which extended XYZ gives a bare key, is no number."""
        try:
            value = np.asarray(self[key])
            return np.asarray("" if value.dtype == bool else value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            held = str(self[key])[:60]
            raise DataError(f"{self.where}: {key} is not numeric, it holds {held!r}; name another key") from error

    def numbers_beside(self, chosen: str | None, known: Sequence[str], factor: float) -> dict[str, float]:
        """Values of the candidates that were not chosen."""
        beside = {}
        for key in self._candidates(known, known):
            value = self[key]
            if key != chosen and isinstance(value, int | float | np.number):
                beside[key] = float(value) * factor
        return beside

    def other_info(self, used: Sequence[str | None]) -> dict[str, Any]:
        """The `info` without the labels that were taken from it."""
        info = self.places["info"].items()
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in info if f"info:{k}" not in used}

    @staticmethod
    def used_arrays(used: Sequence[str | None]) -> list[str]:
        """Names of the arrays among `used` keys."""
        return [key.partition(":")[2] for key in used if key and key.startswith("arrays:")]


def _stored_results(atoms: Atoms) -> dict[str, Any]:
    """Results that the calculator holds for the present positions, without computing or resetting anything."""
    calculator = atoms.calc
    results = getattr(calculator, "results", None) or {}
    check_state = getattr(calculator, "check_state", None)
    if results and check_state is not None and check_state(atoms):
        return {}
    return {name: value for name, value in results.items() if value is not None}


def _geometry(atoms: Atoms, length: float, without: Sequence[str]) -> Atoms:
    geometry = atoms.copy()
    geometry.calc = None
    geometry.set_constraint()
    geometry.info = {}
    for name in without:
        del geometry.arrays[name]
    if length != 1.0:
        geometry.set_cell(geometry.cell.array * length)
        geometry.positions *= length
    return geometry


def _stress(
    drawer: _Drawer, stress_key: str | None, virial_key: str | None, factors: dict[str, float], geometry: Atoms
) -> tuple[str | None, np.ndarray | None]:
    """The stress, or the one that a virial implies, symmetrised; with the key it came from."""
    shapes: set[tuple[int, ...]] = {(3, 3), (9,), (6,)}
    stress = drawer.array(stress_key, factors["stress"], shapes)
    if stress is not None:
        return stress_key, _symmetric(stress)
    virial = drawer.array(virial_key, factors["virial"], shapes)
    volume = abs(np.linalg.det(geometry.cell.array))
    if virial is None or volume == 0.0:  # a virial of a structure without a cell has no stress
        return None, None
    return virial_key, -_symmetric(virial) / volume


def _symmetric(tensor: np.ndarray) -> np.ndarray:
    """Shape (3, 3) from (3, 3), (9,) or Voigt order (6,)."""
    if tensor.shape == (6,):
        tensor = tensor[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    matrix = tensor.reshape(3, 3)
    return (matrix + matrix.T) / 2


def _weight(atoms: Atoms, key: str | None, where: str) -> float:
    value = atoms.info.get(key, 1.0) if key else 1.0
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise DataError(f"{where}: weight {key} is {value!r}, expected a positive number")
    return float(value)
