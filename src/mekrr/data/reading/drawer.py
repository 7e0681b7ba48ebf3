"""Everything one `ase.Atoms` holds, by key, and of which calculation each key speaks."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms

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
    """Everything one `Atoms` object holds, under keys "calc:energy", "info:REF_energy", "arrays:dft_forces"."""

    def __init__(self, atoms: Atoms, where: str) -> None:
        self.where = where
        results, self.is_stale = _stored_results(atoms)
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
    def keys(self) -> list[str]:
        """Names of everything that is there, sorted."""
        return sorted({str(name) for content in self.places.values() for name in content})

    def named(self, name: str) -> str | None:
        """The key that a user names, wherever it is, or None."""
        return next((f"{place}:{name}" for place, content in self.places.items() if name in content), None)

    def candidates(self, label: str, origin: str, prefer_free: bool = False) -> list[str]:
        """Keys under which an origin holds a label, the best first; whole arrays of NaN count as missing."""
        return [key for key in self._spelled(label, origin, prefer_free) if not self._is_missing(key)]

    def _spelled(self, label: str, origin: str, prefer_free: bool) -> Iterator[str]:
        names = list(NAMES[label])
        if origin == STORED:
            stored = ("free_energy", "energy") if prefer_free else ("energy", "free_energy")
            results = stored if label == "energy" else NAMES[label]
            yield from (f"calc:{name}" for name in results if name in self.places["calc"])
        else:
            names = [spelled for name in names for spelled in (f"{origin}_{name}", f"{name}_{origin}")]
        for place in ("info", "arrays"):
            spelled_as = self._spellings[place]
            yield from (f"{place}:{spelled_as[name]}" for name in names if name in spelled_as)

    @cached_property
    def _spellings(self) -> dict[str, dict[str, str]]:
        """In each place, names as they are spelled by how they are in lower case."""
        return {
            place: {key.lower(): key for key in content if isinstance(key, str)}
            for place, content in self.places.items()
        }

    def _is_missing(self, key: str) -> bool:
        """Whether nothing stands there, or NaN alone, which several codes write where a label is missing."""
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

    def other_info(self, used: Sequence[str | None]) -> dict[str, Any]:
        """The `info` without the labels that were taken from it."""
        info = self.places["info"].items()
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in info if f"info:{k}" not in used}


def _stored_results(atoms: Atoms) -> tuple[dict[str, Any], bool]:
    """Results that the calculator holds for the present atoms, and whether it holds some of other atoms instead.

    Nothing is computed or reset.
    """
    calculator = atoms.calc
    results = getattr(calculator, "results", None) or {}
    check_state = getattr(calculator, "check_state", None)
    if results and check_state is not None and check_state(atoms):
        return {}, True
    return {name: value for name, value in results.items() if value is not None}, False
