"""Everything one `ase.Atoms` holds, by key, and of which calculation each key speaks."""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.errors import DataError

FOUND = "mekrr_keys"
"""Key of `Structure.info` under which the reader records where each label came from."""

OWN_RESULTS = "mekrr_results"
"""Key of `info` in files that mekrr wrote: their stored results are a potential's, not labels."""

NAMES = {
    "energy": ("energy", "total_energy", "totenergy", "corrected_total_energy", "free_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress",),
    "virial": ("virial", "virials"),
}
"""What each label is called, without the origin."""

REFERENCES = ("ref", "dft")
"""Origins that say of themselves that they are the reference, as prefix or suffix; the first wins."""

STORED = "stored"
"""Origin of calculator results and of labels under plain names."""

ORIGINS = (*REFERENCES, STORED)


def origin_of(key: str) -> str | None:
    """The origin that a key names, e.g. "ref" of "info:REF_energy", or None where it is no usual one."""
    name = key.partition(":")[2].lower()
    for origin in REFERENCES:
        if name.startswith(f"{origin}_") or name.endswith(f"_{origin}"):
            return origin
    return STORED if any(name in names for names in NAMES.values()) else None


class Drawer:
    """Everything one `Atoms` object holds, under keys "calc:energy", "info:REF_energy", "arrays:dft_forces".

    Args:
        atoms: asked for what it holds, nothing else.
        where: how a message names it.
        strict: False leaves out labels that cannot be read.

    Attributes:
        unread: what is wrong with the labels left out.
    """

    def __init__(self, atoms: Atoms, where: str, strict: bool = True) -> None:
        self.where = where
        self.strict = strict
        self.unread: list[str] = []
        results, self.is_stale = _stored_results(atoms)
        self._missing: dict[str, bool] = {}
        self.written_by = atoms.info.get(OWN_RESULTS)
        self.places: dict[str, Mapping[str, Any]] = {
            "calc": results,
            "info": {k: v for k, v in atoms.info.items() if k not in (FOUND, OWN_RESULTS)},
            "arrays": {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")},
        }

    def __getitem__(self, key: str) -> Any:
        place, _, name = key.partition(":")
        return self.places[place][name]

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of everything that is there, sorted; structures with the same share one tuple."""
        return _sorted(self._names)

    def named(self, name: str) -> str | None:
        """The key that a user names, wherever it is, or None."""
        return next((f"{place}:{name}" for place, content in self.places.items() if name in content), None)

    def candidates(self, label: str, origin: str, prefer_free: bool = False) -> list[str]:
        """Keys under which an origin holds a label, the best first; whole arrays of NaN count as missing."""
        return [key for key in _spelled(self._names, label, origin, prefer_free) if not self._is_missing(key)]

    @cached_property
    def _names(self) -> tuple[tuple[Any, ...], ...]:
        """What each place holds, by name."""
        return tuple(tuple(content) for content in self.places.values())

    def _is_missing(self, key: str) -> bool:
        """Whether nothing stands there, or NaN alone, which several codes write where a label is missing."""
        if key not in self._missing:
            self._missing[key] = self._looks_missing(key)
        return self._missing[key]

    def _looks_missing(self, key: str) -> bool:
        value = self[key]
        if value is None:
            return True
        try:
            numbers = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            return False
        return numbers.size > 0 and bool(np.isnan(numbers).all())

    def number(self, key: str | None, factor: float) -> float | None:
        """The value under `key` times `factor`."""
        value = self.array(key, factor, {(), (1,)})
        return None if value is None else float(value.reshape(()))

    def array(self, key: str | None, factor: float, shapes: set[tuple[int, ...]]) -> np.ndarray | None:
        """The float64 array under `key` times `factor`."""
        if key is None or self._is_missing(key):
            return None
        try:
            return np.asarray(self._shaped(key, shapes) * factor)  # of no axes, the product would be a scalar
        except DataError as error:
            if self.strict:
                raise
            self.unread.append(str(error))
            return None

    def _shaped(self, key: str, shapes: set[tuple[int, ...]]) -> np.ndarray:
        """The float64 array under `key`, of one of the shapes."""
        value = self._numeric(key)
        if value.shape not in shapes:
            expected = " or ".join(map(str, sorted(shapes, key=str)))
            raise DataError(
                f"{self.where}: {key} has shape {value.shape}, expected {expected}; correct it or name another key"
            )
        return value

    def _numeric(self, key: str) -> np.ndarray:
        """The value under `key` in float64; a truth value, which extended XYZ gives a bare key, is no number."""
        try:
            value = np.asarray(self[key])
            return np.asarray("" if value.dtype == bool else value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            held = str(self[key])[:60]
            raise DataError(f"{self.where}: {key} is not numeric, it holds {held!r}; name another key") from error

    def other_info(self, used: Sequence[str | None]) -> dict[str, Any]:
        """The `info` without the labels that were taken from it."""
        info = self.places["info"].items()
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in info if f"info:{k}" not in used}


@lru_cache(maxsize=4096)
def _spelled(names: tuple[tuple[Any, ...], ...], label: str, origin: str, prefer_free: bool) -> tuple[str, ...]:
    """Keys under which an origin spells a label, among the names of each place, which are the same in most frames."""
    results, *others = names
    wanted, found = list(NAMES[label]), []
    if origin == STORED:
        stored = ("free_energy", "energy") if prefer_free else ("energy", "free_energy")
        found = [f"calc:{name}" for name in (stored if label == "energy" else NAMES[label]) if name in results]
    else:
        wanted = [spelled for name in wanted for spelled in (f"{origin}_{name}", f"{name}_{origin}")]
    for place, content in zip(("info", "arrays"), others, strict=True):
        spelled_as = {key.lower(): key for key in content if isinstance(key, str)}
        found += [f"{place}:{spelled_as[name]}" for name in wanted if name in spelled_as]
    return tuple(found)


@lru_cache(maxsize=4096)
def _sorted(names: tuple[tuple[Any, ...], ...]) -> tuple[str, ...]:
    return tuple(sorted({str(name) for place in names for name in place}))


def _stored_results(atoms: Atoms) -> tuple[dict[str, Any], bool]:
    """Results that the calculator holds for the present atoms, and whether it holds some of other atoms instead.

    Nothing is computed or reset.
    """
    calculator = atoms.calc
    results = getattr(calculator, "results", None) or {}
    check_state = getattr(calculator, "check_state", None)
    if results and check_state is not None and not _holds(calculator, atoms) and check_state(atoms):
        return {}, True
    return {name: value for name, value in results.items() if value is not None}, False


def _holds(calculator: Any, atoms: Atoms) -> bool:
    """Whether these are, to the last bit, the atoms of stored results: then ase's long comparison finds nothing."""
    if type(calculator) is not SinglePointCalculator or calculator.atoms is None:
        return False
    one, other = calculator.atoms, atoms
    return (
        set(one.arrays) == set(other.arrays)
        and np.array_equal(one.pbc, other.pbc)
        and np.array_equal(one.cell.array, other.cell.array)
        and all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())
    )
