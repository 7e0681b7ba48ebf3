"""Labels from outside: what a run asks for, as a file, and what it is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from mekrr.data import Structure, as_structures, raise_on_errors, validate
from mekrr.errors import DataError
from mekrr.files import atomic_path
from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.labeller import Answer, bare
from mekrr.learning.labels import Ask
from mekrr.learning.session import Session

ASK = "ask.extxyz"
SAME_PLACE = 1e-3  # Angstrom: positions and cells that codes print with few digits
SAME_LABEL = 1e-4  # eV, eV/Angstrom


def open_asks(session: Session) -> list[Ask]:
    """What waits for labels."""
    state = session.journal.state() or {"asks": []}
    asks = [Ask(**ask) for ask in state["asks"]]
    return [ask for ask in asks if session.label_of(ask.number) is None and not session.failed(ask.number)]


def write_asks(session: Session) -> tuple[Path, tuple[Atoms, ...]]:
    """Write the structures to be labelled."""
    structures = []
    for ask in open_asks(session):
        atoms = bare(ask.atoms)
        atoms.info |= {"label": ask.number, "why": ask.why}
        structures.append(atoms)
    path = session.journal.folder / ASK
    with atomic_path(path) as temporary:
        ase.io.write(temporary, structures, format="extxyz")
    return path, tuple(structures)


def told(session: Session, given: Sequence[Structure | Atoms]) -> list[Event]:
    """Take labels up that were asked for, with what had been predicted for them; one that is there twice once.

    Raises:
        DataError: for a structure that was not asked for, one without energy or forces, or two labels of one ask that
            contradict each other.
    """
    if not given:
        return []
    structures = as_structures(given)
    raise_on_errors(validate(structures, session.learner.backbone.known_species))
    for structure in structures:
        if structure.forces is None:
            raise DataError(f"{structure.where}: it has no forces; both energy and forces are needed")
    asks = open_asks(session)
    first: dict[int, tuple[Ask, Structure]] = {}
    found = []
    for structure in structures:
        ask = _ask_of(structure, asks)
        _, taken = first.setdefault(ask.number, (ask, structure))
        if taken is not structure:
            _require_equal(structure, taken)
            text = f"{structure.where}: the same label as {taken.where}; it was taken once"
            found.append(session.say(events.REMARK, text))
    for ask, structure in first.values():
        results = {"energy": structure.energy, "forces": structure.forces}
        if structure.stress is not None:
            results["stress"] = structure.stress
        found.append(session.take(ask, Answer(results, "", 0.0)))
    (session.journal.folder / ASK).unlink(missing_ok=True)
    return found


def _require_equal(structure: Structure, taken: Structure) -> None:
    """Refuse a second label of one structure that says something else.

    Raises:
        DataError: naming both.
    """
    pairs: list[tuple[Any, Any]] = [(structure.energy, taken.energy), (structure.forces, taken.forces)]
    if not all(np.allclose(a, b, rtol=0, atol=SAME_LABEL) for a, b in pairs):
        raise DataError(
            f"{structure.where}: another energy or other forces than {taken.where} has for the same structure; give "
            "the label that is right"
        )


def _ask_of(structure: Structure, asks: Sequence[Ask]) -> Ask:
    for ask in asks:
        atoms = ask.atoms
        if np.array_equal(atoms.numbers, structure.species) and _is_same_cell(structure.atoms, atoms):
            moves, _ = find_mic(structure.atoms.positions - atoms.positions, atoms.cell, atoms.pbc)
            if np.abs(moves).max() < SAME_PLACE:
                return ask
    waiting = f"{len(asks)} structures wait for labels" if asks else "no structure waits for a label"
    raise DataError(
        f"{structure.where}: this structure was not asked for ({waiting}); give those of {ASK}, the atoms in the same "
        "order and place, and the same cell"
    )


def _is_same_cell(told: Atoms, asked: Atoms) -> bool:
    """Whether the vectors along which the structure repeats are those asked for: a code may need a cell elsewhere."""
    return np.allclose(told.cell.array[asked.pbc], asked.cell.array[asked.pbc], rtol=0, atol=SAME_PLACE)
