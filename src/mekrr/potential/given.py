"""Labels that are given as arrays beside the structures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from mekrr.data import Structure, as_structures


def given_labels(
    structures: Sequence[Structure | Atoms],
    energies: Any,
    forces: Any = None,
    stress: Any = None,
) -> list[Structure] | None:
    """The structures with these labels and no others; None where none are given.

    Raises:
        TypeError: for a function in their place, or forces and stress without energies.
        ValueError: for another number of labels, another shape, or values that are not finite.
    """
    if energies is None:
        if forces is not None or stress is not None:
            raise TypeError("forces and stress were given without energies; give energies=[...] too, in eV")
        return None
    if callable(energies):
        raise TypeError(
            "the second argument of fit is energies, but a function was given; a function that is told of the progress "
            "goes by its name: progress=..."
        )
    bare = as_structures(structures)
    totals = _energies(energies, len(bare))
    rows = zip(
        bare,
        totals,
        _each("forces", forces, bare, _forces),
        _each("stress", stress, bare, lambda label, _: _stress(label)),
        strict=True,
    )
    return [replace(s, energy=float(e), forces=f, stress=sigma) for s, e, f, sigma in rows]


def _energies(energies: Any, count: int) -> np.ndarray:
    try:
        totals = np.asarray(energies, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"energies must be numbers, one a structure, in eV; received {energies!r:.80}") from error
    if totals.shape != (count,):
        raise ValueError(
            f"energies must be one number for each of the {count} structures (total energies, eV); received an array "
            f"of shape {totals.shape}"
        )
    if not np.isfinite(totals).all():
        raise ValueError(f"energies hold values that are not finite, the first at index {_first(totals)}")
    return totals


def _each(
    name: str, labels: Any, structures: Sequence[Structure], read: Callable[[Any, Structure], np.ndarray]
) -> Iterator[np.ndarray | None]:
    """A label of each structure, or None."""
    if labels is None:
        yield from [None] * len(structures)
        return
    if not hasattr(labels, "__len__") or len(labels) != len(structures):
        count = len(labels) if hasattr(labels, "__len__") else repr(labels)[:40]
        raise ValueError(f"{name} must be one array for each of the {len(structures)} structures; received {count}")
    for t, (label, structure) in enumerate(zip(labels, structures, strict=True)):
        try:
            found = None if label is None else read(label, structure)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}[{t}]: {error}") from error
        if found is not None and not np.isfinite(found).all():
            raise ValueError(f"{name}[{t}] holds values that are not finite")
        yield found


def _forces(label: Any, structure: Structure) -> np.ndarray:
    found = np.asarray(label, dtype=float)
    if found.shape != (len(structure), 3):
        raise ValueError(f"forces of {len(structure)} atoms have the shape ({len(structure)}, 3); got {found.shape}")
    return found


def _stress(label: Any) -> np.ndarray:
    found = np.asarray(label, dtype=float)
    if found.shape == (6,):
        return np.asarray(voigt_6_to_full_3x3_stress(found))
    if found.shape != (3, 3):
        raise ValueError(f"a stress has the shape (3, 3), or 6 numbers in Voigt order; got {found.shape}")
    return found


def _first(values: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(values))[0])
