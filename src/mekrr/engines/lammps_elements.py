"""Which element an atom type of LAMMPS is: as given, by its label, or by its mass."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from mekrr.errors import EngineError

SAME_MASS = 0.1
"""u; masses of input files are rounded, and differ by isotopes."""

_LABEL = re.compile(r'(\d+) """ (.*?) """')


@dataclass(frozen=True)
class Elements:
    """Elements of the atom types.

    Attributes:
        numbers: atomic number of each type, in order.
        source: whence they are known, in words.
    """

    numbers: tuple[int, ...]
    source: str

    @property
    def symbols(self) -> tuple[str, ...]:
        """Of each type, in order."""
        return tuple(chemical_symbols[z] for z in self.numbers)

    def __str__(self) -> str:
        types = ", ".join(f"{t} {symbol}" for t, symbol in enumerate(self.symbols, 1))
        return f"atom types: {types} ({self.source})"


def elements_of(lmp: Any, given: Sequence[str] | None) -> Elements:
    """The elements of an instance's atom types.

    Args:
        lmp: with a box.
        given: symbol of each type, in order; None looks at labels, then at masses.

    Raises:
        EngineError: when they cannot be told.
    """
    n_types = lmp.extract_setting("ntypes")
    if given is not None:
        return Elements(_given(list(given), n_types), "as given")
    labels = _labels(lmp)
    if len(labels) == n_types and all(label in atomic_numbers for label in labels):
        return Elements(tuple(atomic_numbers[label] for label in labels), "by their labels")
    return Elements(tuple(_of_mass(t, mass) for t, mass in enumerate(_masses(lmp, n_types), 1)), "by their masses")


def _given(symbols: list[str], n_types: int) -> tuple[int, ...]:
    unknown = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise EngineError(f"{unknown[0]!r} is no element; name the element of each atom type, in order")
    if len(symbols) != n_types:
        raise EngineError(
            f"{len(symbols)} elements ({' '.join(symbols)}) for {n_types} atom types; name one for each type, in order"
        )
    return tuple(atomic_numbers[symbol] for symbol in symbols)


def _labels(lmp: Any) -> list[str]:
    """Type labels in the order of the types; empty where there are none. The library hands them out to a file only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels"
        lmp.command(f"labelmap write {path}")
        lines = path.read_text().splitlines() if path.exists() else []
    found = {int(t): label for line in lines if line.startswith("labelmap atom ") for t, label in _LABEL.findall(line)}
    return [found[t] for t in sorted(found)]


def _masses(lmp: Any, n_types: int) -> list[float]:
    """Of each type, u."""
    masses = lmp.numpy.extract_atom("mass")
    if masses is None or not (masses[1 : n_types + 1] > 0).all():
        raise EngineError(
            "the elements of the atom types are not known: there are neither type labels that are symbols nor masses; "
            "name the element of each type, in order"
        )
    return [float(mass) for mass in masses[1 : n_types + 1]]


def _of_mass(kind: int, mass: float) -> int:
    # The element "X" of ASE has mass 1, beside hydrogen's.
    near = 1 + np.flatnonzero(np.abs(atomic_masses[1:] - mass) < SAME_MASS)
    if len(near) == 1:
        return int(near[0])
    names = " or ".join(chemical_symbols[z] for z in near) or "no element"
    raise EngineError(f"atom type {kind} of mass {mass:g} may be {names}; name the element of each type, in order")
