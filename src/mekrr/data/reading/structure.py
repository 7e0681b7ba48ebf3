"""A labelled structure: the one form in which data travels from the readers to the potential."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.symbols import Symbols

from mekrr.typing import Float, ndarray


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms with what is known about them; labels that are missing are None.

    Attributes:
        atoms: geometry, charge and spin only: no calculator and no constraints, so forces are never altered.
        energy: total energy in eV.
        forces: shape (atoms, 3), eV/Angstrom.
        stress: shape (3, 3), eV/Angstrom^3 in ASE's sign (virial = -volume * stress).
        weight: importance of this structure; its noise variance is divided by it.
        info: every other key of the source (config_type, segment, ...).
        source: the file it came from, empty for structures made in memory.
        index: position in that file.
    """

    atoms: Atoms
    energy: float | None = None
    forces: Float[ndarray, "atoms 3"] | None = None
    stress: Float[ndarray, "3 3"] | None = None
    weight: float = 1.0
    info: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    index: int = 0

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def species(self) -> np.ndarray:
        """Atomic numbers, shape (atoms,)."""
        return self.atoms.numbers

    @property
    def where(self) -> str:
        """How an error message names this structure."""
        return f"{self.source or 'structure'}, index {self.index} ({formula(self.atoms)})"


def formula(atoms: Atoms) -> str:
    """The chemical formula; of atoms that are of no element, which damaged files hold, only how many there are."""
    return _formula(np.sort(atoms.numbers).tobytes(), atoms.numbers.dtype.str)


@lru_cache(maxsize=4096)
def _formula(ordered: bytes, dtype: str) -> str:
    """Of atomic numbers in ascending order, of which most data sets have few that differ."""
    numbers = np.frombuffer(ordered, dtype)
    is_element = (numbers >= 0) & (numbers < len(chemical_symbols))
    return (
        str(Symbols(numbers).get_chemical_formula())
        if is_element.all()
        else f"{len(numbers)} atoms, some of no element"
    )
