"""What a structure must be for anything else to be asked of it: finite, well shaped, with a proper cell."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from mekrr.data.checking.distances import completed, unsearchable
from mekrr.data.checking.issues import found_issue
from mekrr.data.reading.labels import why_no_energy
from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError


@dataclass(frozen=True)
class Rule:
    """One thing to check in each structure.

    Attributes:
        code: short name of the fault.
        complaint: what is wrong with a structure, in words, or None.
        advice: what to do about it.
    """

    code: str
    complaint: Callable[[Structure], str | None]
    advice: str


def _no_atoms(structure: Structure) -> str | None:
    return "it has no atoms" if len(structure) == 0 else None


def _no_element(structure: Structure) -> str | None:
    strangers = np.flatnonzero((structure.species < 1) | (structure.species >= len(chemical_symbols)))
    return f"atom {strangers[0]} is of no element (symbol X)" if len(strangers) else None


def _shape(structure: Structure) -> str | None:
    for name, array, shape in (
        ("forces", structure.forces, (len(structure), 3)),
        ("stress", structure.stress, (3, 3)),
    ):
        if array is not None and np.shape(array) != shape:
            return f"{name} have shape {np.shape(array)}, expected {shape}"
    return None


def _not_finite(structure: Structure) -> str | None:
    arrays = {
        "positions": structure.atoms.positions,
        "cell": structure.atoms.cell.array,
        "energy": structure.energy,
        "forces": structure.forces,
        "stress": structure.stress,
    }
    bad = [name for name, array in arrays.items() if array is not None and not np.isfinite(array).all()]
    return f"NaN or infinite {' and '.join(bad)}" if bad else None


def _improper_cell(structure: Structure) -> str | None:
    """A cell that is flat although periodic; NaN is reported elsewhere."""
    atoms = structure.atoms
    missing = [
        axis for axis, vector, on in zip("abc", atoms.cell.array, atoms.pbc, strict=True) if on and not vector.any()
    ]
    if missing:
        return f"periodic along {', '.join(missing)}, where the cell has no vector"
    if atoms.pbc.any() and abs(np.linalg.det(completed(atoms.cell))) < 1e-6:
        return "the cell vectors of a periodic structure lie in one plane"
    return None


def _no_volume(structure: Structure) -> str | None:
    if structure.stress is None or structure.atoms.pbc.all():
        return None
    return "a stress, although it does not repeat in all three directions"


def _weight(structure: Structure) -> str | None:
    positive = 0 < structure.weight < np.inf
    return None if positive else f"weight {structure.weight}"


SOUND = (
    Rule("no-atoms", _no_atoms, "remove it"),
    Rule("no-element", _no_element, "give it its chemical symbol, or remove it"),
    Rule("shape", _shape, "correct the file, or name the key that holds this label"),
    Rule("not-finite", _not_finite, "remove the structure or repeat the calculation"),
    Rule("cell", _improper_cell, "correct the cell, or the periodic directions (pbc)"),
    Rule("extent", lambda s: unsearchable(s.atoms), "correct the positions, the cell or the periodic directions"),
    Rule("no-volume", _no_volume, "leave the stress out (None), or correct the periodic directions (pbc)"),
    Rule("weight", _weight, "give every structure a positive, finite weight"),
)
"""A structure that breaks one of these is left out of all further checks."""


def require_sound(structures: Sequence[Structure]) -> None:
    """Refuse structures that break a rule of `SOUND`.

    Raises:
        DataError: naming the first of them, what is wrong and what to do.
    """
    for rule in SOUND:
        found = [(i, complaint) for i, s in enumerate(structures) if (complaint := rule.complaint(s))]
        for issue in found_issue("error", rule.code, found, structures, rule.advice):
            raise DataError(issue.message)


def no_energy(structure: Structure) -> str | None:
    """Complaint about a structure without an energy, with the keys that were found instead."""
    return None if structure.energy is not None else why_no_energy(structure)


def unknown_elements(known: Collection[int]) -> Rule:
    """The rule that all elements be among `known` atomic numbers."""

    def complaint(structure: Structure) -> str | None:
        strangers = sorted(set(structure.species.tolist()) - set(known))
        return f"the backbone does not know {', '.join(chemical_symbols[z] for z in strangers)}" if strangers else None

    return Rule("unknown-element", complaint, "choose a backbone that does, or remove the structure")


def is_sound(structure: Structure) -> bool:
    """Whether the structure keeps all rules of `SOUND`."""
    return not any(rule.complaint(structure) for rule in SOUND)
