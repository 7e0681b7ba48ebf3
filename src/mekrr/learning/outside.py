"""Labels from outside: what a run asks for, as a file, and what it is told."""

from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from mekrr.data import Structure, as_structures, raise_on_errors, validate
from mekrr.errors import DataError
from mekrr.files import atomic_path
from mekrr.learning.events import Event
from mekrr.learning.labeller import Answer, bare
from mekrr.learning.labels import Ask
from mekrr.learning.session import Session

ASK = "ask.extxyz"
SAME_PLACE = 1e-3  # Angstrom: positions that codes print with few digits


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
        atoms.info = {"label": ask.number, "why": ask.why}
        structures.append(atoms)
    path = session.journal.folder / ASK
    with atomic_path(path) as temporary:
        ase.io.write(temporary, structures, format="extxyz")
    return path, tuple(structures)


def told(session: Session, given: Sequence[Structure | Atoms]) -> list[Event]:
    """Take labels up that were asked for, with what had been predicted for them.

    Raises:
        DataError: for a structure that was not asked for, or one without energy or forces.
    """
    if not given:
        return []
    structures = as_structures(given)
    raise_on_errors(validate(structures, session.learner.backbone.known_species))
    asks = open_asks(session)
    pairs = [(_ask_of(structure, asks), structure) for structure in structures]
    found = []
    for ask, structure in pairs:
        if structure.forces is None:
            raise DataError(f"{structure.where}: it has no forces; both energy and forces are needed")
        results = {"energy": structure.energy, "forces": structure.forces}
        if structure.stress is not None:
            results["stress"] = structure.stress
        found.append(session.take(ask, Answer(results, "", 0.0)))
    (session.journal.folder / ASK).unlink(missing_ok=True)
    return found


def _ask_of(structure: Structure, asks: Sequence[Ask]) -> Ask:
    for ask in asks:
        atoms = ask.atoms
        if np.array_equal(atoms.numbers, structure.species):
            moves, _ = find_mic(structure.atoms.positions - atoms.positions, atoms.cell, atoms.pbc)
            if np.abs(moves).max() < SAME_PLACE:
                return ask
    waiting = f"{len(asks)} structures wait for labels" if asks else "no structure waits for a label"
    raise DataError(
        f"{structure.where}: this structure was not asked for ({waiting}); give those of {ASK}, the atoms in the same "
        "order and place"
    )
