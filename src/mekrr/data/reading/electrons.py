"""Total charge and spin of a structure, where its source tells them: with the geometry, what some networks read."""

import math
from typing import Any

from ase import Atoms

CHARGE, SPIN = "charge", "spin"
"""Keys of `Atoms.info`: total charge in units of e, and spin multiplicity 2S + 1."""
NEUTRAL, SINGLET = 0.0, 1.0
"""Of a structure whose source says nothing."""


def charge_and_spin(atoms: Atoms) -> tuple[float, float]:
    """Total charge (e) and spin multiplicity; 0 and 1 where nothing is said, NaN where what is said is no number."""
    return as_number(atoms.info.get(CHARGE, NEUTRAL)), as_number(atoms.info.get(SPIN, SINGLET))


def electrons(atoms: Atoms) -> dict[str, Any]:
    """The part of `info` that belongs to the structure rather than to its source."""
    return {key: atoms.info[key] for key in (CHARGE, SPIN) if key in atoms.info}


def as_number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
