"""Energies that look as if they were counted from different zeros."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mekrr.data.checking.composition import composition_matrix, fit_composition_reference, is_isolated_atom
from mekrr.data.reading.structure import Structure, formula
from mekrr.typing import Float, ndarray

SAME_FORMULA_GAP = 0.5
"""eV/atom between two tight groups of structures of one formula: wider than a change of geometry leaves empty."""

ANY_GAP = 10.0
"""eV/atom: more than any cohesive energy, so never physical once the composition is accounted for."""


def composition_residuals(structures: Sequence[Structure]) -> Float[ndarray, "structures"]:
    """Energies in eV/atom after subtracting the least-squares energy of each element."""
    counts, elements = composition_matrix(structures)
    sizes = counts.sum(axis=1)
    energies = np.array([np.nan if s.energy is None else s.energy for s in structures])
    reference = fit_composition_reference(counts, energies, elements, weights=sizes**-2.0)
    return (energies - reference(counts)) / sizes


def mixed_references(structures: Sequence[Structure]) -> str | None:
    """Where the energies fall apart into two groups that geometry cannot explain, in words, or None.

    Structures of one formula (same number of atoms) are compared with each other; across formulas only a gap beyond any
    cohesive energy counts, because a composition fit leaves more than 100 meV/atom between sound polymorphs. Isolated
    atoms are left aside.
    """
    molecules = [s for s in structures if s.energy is not None and not is_isolated_atom(s)]
    families: dict[str, list[float]] = defaultdict(list)
    for s in molecules:
        families[formula(s.atoms)].append(float(s.energy or 0.0) / len(s))
    for name, energies in families.items():
        gap = _gap(np.array(energies), SAME_FORMULA_GAP)
        if gap:
            return f"{name}: {gap}"
    residuals = composition_residuals(molecules) if len(molecules) > 1 else np.zeros(0)
    gap = _gap(residuals, ANY_GAP)
    return f"after a composition fit {gap}" if gap else None


def _gap(values: np.ndarray, least: float) -> str | None:
    """The largest empty interval, in words, if it is at least `least` wide and parts two tight groups."""
    ordered = np.sort(values)
    if len(ordered) < 4:
        return None
    gaps = np.diff(ordered)
    cut = int(gaps.argmax()) + 1
    low, high = ordered[:cut], ordered[cut:]
    spread = max(np.ptp(low), np.ptp(high))
    if min(len(low), len(high)) < 2 or gaps[cut - 1] < max(least, 2 * spread):
        return None
    return f"{len(low)} energies up to {low[-1]:.2f} and {len(high)} from {high[0]:.2f} eV/atom, with none between"
