"""Factors from the units a file may use to eV, Angstrom and eV/Angstrom^3."""

from ase import units

from mekrr.errors import DataError

_ENERGIES = {
    "ev": 1.0,
    "mev": 1e-3,
    "ha": units.Hartree,
    "hartree": units.Hartree,
    "eh": units.Hartree,
    "ry": units.Rydberg,
    "rydberg": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kj/mol": units.kJ / units.mol,
}
_LENGTHS = {
    "angstrom": 1.0,
    "a": 1.0,
    "å": 1.0,
    "bohr": units.Bohr,
    "a0": units.Bohr,
    "nm": units.nm,
}
_PRESSURES = {
    "gpa": units.GPa,
    "mpa": 1e-3 * units.GPa,
    "kbar": 0.1 * units.GPa,
    "bar": 1e-4 * units.GPa,
}


def energy_factor(unit: str) -> float:
    """Factor from `unit` to eV, e.g. 27.2 for "Ha".

    Raises:
        DataError: for a unit that is not known.
    """
    return _look_up(unit, _ENERGIES, "energy")


def length_factor(unit: str) -> float:
    """Factor from `unit` to Angstrom, e.g. 0.529 for "Bohr".

    Raises:
        DataError: for a unit that is not known.
    """
    return _look_up(unit, _LENGTHS, "length")


def force_factor(unit: str) -> float:
    """Factor from `unit`, an energy over a length such as "Ha/Bohr", to eV/Angstrom.

    Raises:
        DataError: for a unit that is not an energy over a length.
    """
    energy, slash, length = unit.rpartition("/")
    if not slash or _tidy(unit) in _ENERGIES:
        raise DataError(f"unknown unit of forces {unit!r}: give an energy over a length, e.g. 'eV/Angstrom', 'Ha/Bohr'")
    return energy_factor(energy) / length_factor(length)


def stress_factor(unit: str) -> float:
    """Factor from `unit`, a pressure ("GPa") or an energy over a volume ("eV/Angstrom^3"), to eV/Angstrom^3.

    Raises:
        DataError: for a unit that is neither.
    """
    if _tidy(unit) in _PRESSURES:
        return _PRESSURES[_tidy(unit)]
    energy, _, volume = unit.rpartition("/")
    length = _tidy(volume).removesuffix("3").removesuffix("³").removesuffix("^").removesuffix("**")
    if not energy or length == _tidy(volume):
        raise DataError(f"unknown unit of stress {unit!r}: use one of {', '.join(_PRESSURES)} or e.g. 'eV/Angstrom^3'")
    return energy_factor(energy) / length_factor(length) ** 3


def _tidy(unit: str) -> str:
    return unit.strip().lower().replace(" ", "")


def _look_up(unit: str, known: dict[str, float], quantity: str) -> float:
    try:
        return known[_tidy(unit)]
    except KeyError:
        raise DataError(f"unknown unit of {quantity} {unit!r}: use one of {', '.join(known)}") from None
