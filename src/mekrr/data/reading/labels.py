"""Energies, forces and stress wherever a file keeps them: from ase.Atoms to `Structure`.

Energies, forces and stress of a structure are taken from one origin. Origins, the first that has an energy wins:

1. the key the user names in `LabelKeys`, among calculator results, then `info`, then `arrays`;
2. names that say they are the reference, whatever their case: `REF_energy`, `energy_ref`, then `dft_energy`, ...;
3. calculator results, and plain names in `info` and `arrays` (`energy`, `force`, `virial`, ...).

Labels of another origin are left out, and the record in `Structure.info` names them, for `validate` to say so. Results
in files that mekrr wrote are a potential's own: they are labels only for a user who names their key.

Energy and free energy. Codes with electronic smearing give two: `energy`, extrapolated to zero smearing, and
`free_energy`, whose derivative the forces are. A potential needs energies and forces of one surface, so a structure
with forces takes `free_energy` where the calculator has both, and one without forces takes `energy`.
`LabelKeys(energy=...)` overrides this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms

from mekrr.data.reading.drawer import FOUND, ORIGINS, STORED, Drawer, origin_of
from mekrr.data.reading.electrons import electrons
from mekrr.data.reading.structure import Structure, formula
from mekrr.data.reading.units import energy_factor, force_factor, length_factor, stress_factor
from mekrr.declared import option
from mekrr.errors import DataError

SAME_STRESS = 1e-4
"""eV/Angstrom^3: a stress and the one that a virial implies may differ by so much."""


@dataclass(frozen=True)
class LabelKeys:
    """Names and units of the labels in a file; None looks in the usual places (see the module's text).

    Attributes:
        energy: key of the total energy.
        forces: key of the forces, shape (atoms, 3).
        stress: key of the stress in ASE's sign: shape (3, 3), 9 numbers, or 6 in Voigt order xx yy zz yz xz xy.
        virial: key of the virial (-volume times stress), in the unit of the energy; read where there is no stress, and
            a stress that is not named gives way to a virial that is.
        weight: key of the weight of a structure; structures without it weigh 1.
        energy_unit: eV, meV, Ha, Ry, kcal/mol or kJ/mol.
        length_unit: of positions and cell: Angstrom, Bohr or nm.
        forces_unit: None means energy_unit over length_unit.
        stress_unit: GPa, kbar, ...; None means energy_unit over length_unit cubed.
        unconverged: what becomes of structures whose electronic loop did not converge: drop, keep or refuse.
    """

    energy: str | None = option(None, "name of the energy in the file", "--energy-key")
    forces: str | None = option(None, "name of the forces", "--forces-key")
    stress: str | None = option(None, "name of the stress (ASE's sign)", "--stress-key")
    virial: str | None = option(None, "name of the virial (-volume times stress)", "--virial-key")
    weight: str | None = option(None, "name of the weight of a structure", "--weight-key")
    energy_unit: str = option("eV", "eV, meV, Ha, Ry, kcal/mol or kJ/mol", "--energy-unit")
    length_unit: str = option("Angstrom", "Angstrom, Bohr or nm", "--length-unit")
    forces_unit: str | None = option(None, "e.g. Ha/Bohr; by default energy over length", "--forces-unit")
    stress_unit: str | None = option(None, "GPa, kbar, eV/Angstrom^3, ...", "--stress-unit")
    unconverged: str = option("drop", "structures whose electronic loop stopped: drop, keep or refuse", "--unconverged")

    def factors(self) -> dict[str, float]:
        """Factors from the file's units to eV and Angstrom, by label.

        Raises:
            DataError: for a unit that is not known.
        """
        return dict(_factors(self))

    def mixed_unit_of_forces(self) -> str | None:
        """Of forces whose unit is not named, where energies are in atomic units and lengths are not."""
        mixed = self.energy_unit in ("Ha", "Ry") and self.length_unit != "Bohr" and self.forces_unit is None
        return f"{self.energy_unit}/{self.length_unit}" if mixed else None


@lru_cache(maxsize=64)
def _factors(keys: LabelKeys) -> dict[str, float]:
    """Looked up once, not for each structure."""
    return {
        "energy": energy_factor(keys.energy_unit),
        "virial": energy_factor(keys.energy_unit),
        "length": length_factor(keys.length_unit),
        "forces": force_factor(keys.forces_unit or f"{keys.energy_unit}/{keys.length_unit}"),
        "stress": stress_factor(keys.stress_unit or f"{keys.energy_unit}/{keys.length_unit}^3"),
    }


def from_ase(
    atoms: Atoms, keys: LabelKeys | None = None, source: str = "", index: int = 0, strict: bool = True
) -> Structure:
    """The structure in `atoms` with the labels stored in it; no calculation is started and constraints are ignored.

    Args:
        atoms: its calculator, if any, is only asked for results that belong to the present positions.
        keys: where the labels are and in which units.
        source: the file, for messages.
        index: position in that file.
        strict: False leaves out labels that are not numbers or have the wrong shape.

    Raises:
        DataError: when a label is not a number or has the wrong shape.
    """
    keys = keys or LabelKeys()
    where = f"{source or 'structure'}, index {index} ({formula(atoms)})"
    drawer = Drawer(atoms, where, strict)
    factors = keys.factors()
    choice = _Choice.of(drawer, keys)
    geometry = _geometry(atoms, factors["length"], choice.used_arrays())
    energy = drawer.number(choice.energy, factors["energy"])
    forces = drawer.array(choice.forces, factors["forces"], {(len(atoms), 3)})
    stress_key, stress, remarks = _stress(drawer, choice, factors, geometry)
    found: dict[str, Any] = {"energy": choice.energy, "forces": choice.forces, "stress": stress_key}
    found |= {"other_energies": choice.other_energies(drawer, factors["energy"]), "present": drawer.keys}
    found |= choice.record() | remarks
    found |= {"named": True} if keys.energy else {}
    if forces is not None and (unit := keys.mixed_unit_of_forces()):
        found["forces_unit"] = unit
    found |= {"unread": drawer.unread} if drawer.unread else {}
    found |= {"stale": True} if drawer.is_stale else {}
    found |= {"written_by": str(drawer.written_by)} if drawer.written_by is not None else {}
    return Structure(
        atoms=geometry,
        energy=energy,
        forces=forces,
        stress=stress,
        weight=_weight(drawer, keys.weight),
        info=drawer.other_info([choice.energy, choice.stress, choice.virial]) | {FOUND: found},
        source=source,
        index=index,
    )


def as_structures(
    items: Sequence[Structure | Atoms] | Structure | Atoms, keys: LabelKeys | None = None
) -> list[Structure]:
    """The items as structures: ase.Atoms are converted with `from_ase`, structures are passed on.

    Raises:
        DataError: for an item that is neither, or a named key that no structure has.
    """
    if isinstance(items, Structure | Atoms):
        items = [items]
    structures = [_as_structure(item, keys, i) for i, item in enumerate(items)]
    require_named(structures, keys or LabelKeys())
    return structures


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


def why_no_energy(structure: Structure) -> str:
    """What was found in place of an energy, in words."""
    found = structure.info.get(FOUND) or {}
    if found.get("written_by"):
        return (
            f"no energy: the results in this file are those of mekrr {found['written_by']}, and no label; to take them "
            f"as labels all the same, name their keys (energy, forces). {keys_beside_labels(structure)}"
        )
    if found.get("stale"):
        return (
            "no energy: the calculator's results are stale, they belong to other positions, another cell or other "
            "periodic directions (wrap() and a change of pbc suffice); store them anew. "
            f"{keys_beside_labels(structure)}"
        )
    return f"no energy; {keys_beside_labels(structure)}"


def require_named(structures: Sequence[Structure], keys: LabelKeys) -> None:
    """Refuse names and units of labels that no structure has.

    Raises:
        DataError: listing the keys that are there.
    """
    read = [s for s in structures if FOUND in s.info]
    if not read:
        return
    present = {key for s in read for key in s.info[FOUND]["present"]}
    for label in ("energy", "forces", "stress", "virial", "weight"):
        name = getattr(keys, label)
        if name is not None and name not in present:
            raise DataError(
                f"{read[0].source or 'these structures'}: no structure has the {label} key {name!r}: check its "
                f"spelling; keys found: {', '.join(sorted(present)) or 'none'}"
            )
    virials = {s.info[FOUND].get("virial") for s in read}
    for label, unit in (("forces", keys.forces_unit), ("stress", keys.stress_unit)):
        found = {s.info[FOUND][label] for s in read} - {None}
        if unit is not None and found <= virials:
            instead = (
                f" beside the virial {', '.join(sorted(found))}, which has the unit of the energy" if found else ""
            )
            raise DataError(
                f"{read[0].source or 'these structures'}: a unit of the {label} is given ({unit}), but no {label} "
                f"were found{instead}; name their key, or leave the unit out; keys found: {', '.join(sorted(present))}"
            )


@dataclass(frozen=True)
class _Choice:
    """Keys of the labels that are read, None where there are none, and of those that are not.

    Attributes:
        left_out: by label, the key of the first candidate where no label of the origin chosen is there.
        beside: by label, another candidate beside the one chosen.
        unnamed: by label, the first candidate where the key that is named is not there.
    """

    energy: str | None
    forces: str | None
    stress: str | None
    virial: str | None
    left_out: dict[str, str]
    beside: dict[str, str]
    unnamed: dict[str, str]
    energies: tuple[str, ...]

    @staticmethod
    def of(drawer: Drawer, keys: LabelKeys) -> "_Choice":
        """Named keys first, everything else from one origin."""
        named = {label: getattr(keys, label) for label in ("energy", "forces", "stress", "virial")}
        at = {label: drawer.named(name) if name else None for label, name in named.items()}
        origins = [o for o in ORIGINS if o != STORED or drawer.written_by is None]
        origin = _origin(drawer, at, origins)
        prefer_free = bool(at["forces"] or drawer.candidates("forces", origin))
        chosen: dict[str, str | None] = {}
        left_out: dict[str, str] = {}
        beside: dict[str, str] = {}
        unnamed: dict[str, str] = {}
        every = {label: [key for o in origins for key in drawer.candidates(label, o, prefer_free)] for label in named}
        for label, name in named.items():
            own = drawer.candidates(label, origin, prefer_free) if origin in origins else []
            if label == "stress" and named["virial"] and not name:
                own = []  # the user wants the virial
            chosen[label] = at[label] if name else next(iter(own), None)
            others = [key for key in every[label] if key != chosen[label] and origin_of(key) != origin]
            if name and chosen[label] is None and every[label]:
                unnamed[label] = every[label][0]
            elif others and label != "virial":
                (left_out if chosen[label] is None else beside)[label] = others[0]
        return _Choice(**chosen, left_out=left_out, beside=beside, unnamed=unnamed, energies=tuple(every["energy"]))

    def used_arrays(self) -> list[str]:
        """Names of the arrays that are labels."""
        keys = (self.energy, self.forces, self.stress, self.virial)
        return sorted({key.partition(":")[2] for key in keys if key and key.startswith("arrays:")})

    def other_energies(self, drawer: Drawer, factor: float) -> dict[str, float]:
        """Values in eV of the candidates that were not chosen."""
        numbers = {key: drawer[key] for key in self.energies if key != self.energy}
        return {k: float(v) * factor for k, v in numbers.items() if isinstance(v, int | float | np.number)}

    def record(self) -> dict[str, Any]:
        """For `Structure.info`."""
        return {"left_out": self.left_out, "beside": self.beside, "unnamed": self.unnamed}


def _origin(drawer: Drawer, at: dict[str, str | None], origins: Sequence[str]) -> str:
    """Where all labels that are not named come from: the origin of a named key, else the first with an energy."""
    for label in ("energy", "forces"):
        key = at[label]
        if key is not None and (origin := origin_of(key)) is not None:
            return origin
    for label in ("energy", "forces", "stress", "virial"):
        for origin in origins:
            if drawer.candidates(label, origin):
                return origin
    return origins[0]


def _geometry(atoms: Atoms, length: float, without: Sequence[str]) -> Atoms:
    geometry = atoms.copy()
    geometry.calc = None
    geometry.set_constraint()
    geometry.info = electrons(atoms)
    for name in without:
        del geometry.arrays[name]
    if length != 1.0:
        geometry.set_cell(geometry.cell.array * length)
        geometry.positions *= length
    return geometry


def _stress(
    drawer: Drawer, choice: _Choice, factors: dict[str, float], geometry: Atoms
) -> tuple[str | None, np.ndarray | None, dict[str, Any]]:
    """The stress, or the one that a virial implies, with the key it came from and what is to be said of it.

    Only structures that repeat in all three directions have one: the volume of others is that of their empty space.
    """
    shapes: set[tuple[int, ...]] = {(3, 3), (9,), (6,)}
    stress = drawer.array(choice.stress, factors["stress"], shapes)
    virial = drawer.array(choice.virial, factors["virial"], shapes)
    key = choice.virial if stress is None else choice.stress
    if stress is None and virial is None:
        return None, None, {}
    with np.errstate(all="ignore"):  # a cell that is not finite is reported by what checks it
        volume = abs(np.linalg.det(geometry.cell.array))
    if not geometry.pbc.all() or volume == 0.0:
        return None, None, {"stress_left_out": key}
    implied = None if virial is None else -_symmetric(virial) / volume
    if stress is None:
        return key, implied, {"virial": key}
    stress = _symmetric(stress)
    remarks = {}
    if implied is not None and np.abs(implied - stress).max() > max(SAME_STRESS, 0.01 * np.abs(stress).max()):
        worst = np.unravel_index(np.abs(implied - stress).argmax(), (3, 3))
        remarks = {"contradiction": (key, choice.virial, float(stress[worst]), float(implied[worst]))}
    return key, stress, remarks


def _symmetric(tensor: np.ndarray) -> np.ndarray:
    """Shape (3, 3) from (3, 3), (9,) or Voigt order (6,)."""
    if tensor.shape == (6,):
        tensor = tensor[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    matrix = tensor.reshape(3, 3)
    return (matrix + matrix.T) / 2


def _weight(drawer: Drawer, name: str | None) -> float:
    key = drawer.named(name) if name else None
    value = 1.0 if key is None else drawer[key]
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        held = " ".join(repr(value).split())[:60]
        raise DataError(f"{drawer.where}: weight {name} is {held}, expected a positive number, one a structure")
    return float(value)
