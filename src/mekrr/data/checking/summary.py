"""What is in a data set, in numbers."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mekrr.data.checking.composition import is_isolated_atom
from mekrr.data.checking.distances import Contacts
from mekrr.data.checking.duplicates import duplicate_groups
from mekrr.data.checking.issues import Issue
from mekrr.data.checking.references import composition_residuals
from mekrr.data.checking.soundness import SOUND, is_sound
from mekrr.data.checking.validation import check
from mekrr.data.reading.drawer import FOUND
from mekrr.data.reading.structure import Structure, formula

UNSOUND = {rule.code for rule in SOUND}
DUPLICATES = ("duplicates", "duplicates-conflict")


@dataclass(frozen=True)
class DatasetSummary:
    """Counts and ranges of a data set; everything is JSON-able.

    Attributes:
        sources: structures by file.
        n_structures: number of structures.
        n_atoms: number of atoms in all of them.
        sizes: smallest, median and largest number of atoms of a structure.
        elements: atoms by element.
        compositions: structures by chemical formula, most frequent first.
        periodicity: structures by periodic directions, e.g. {"TTF": 12}.
        isolated_atoms: energy in eV of each isolated atom, by element; None if it has none.
        labels: structures that have an energy, forces, a stress, a weight other than 1.
        label_keys: where each label was found: structures by key.
        info_keys: other keys and the number of structures that have them.
        config_types: structures by config_type.
        energy_residual: eV/atom after the best energy per element: rms, lowest and highest.
        forces: eV/Angstrom: root mean square and largest absolute component.
        stress: eV/Angstrom^3: root mean square and largest absolute component.
        shortest_distances: Angstrom, by pair of elements.
        n_duplicates: structures that equal an earlier one.
    """

    sources: dict[str, int]
    n_structures: int
    n_atoms: int
    sizes: dict[str, float]
    elements: dict[str, int]
    compositions: dict[str, int]
    periodicity: dict[str, int]
    isolated_atoms: dict[str, float | None]
    labels: dict[str, int]
    label_keys: dict[str, dict[str, int]]
    info_keys: dict[str, int]
    config_types: dict[str, int]
    energy_residual: dict[str, float] | None
    forces: dict[str, float] | None
    stress: dict[str, float] | None
    shortest_distances: dict[str, float]
    n_duplicates: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and numbers."""
        return asdict(self)


def summary(
    structures: Sequence[Structure],
    issues: Sequence[Issue] | None = None,
    shortest_distances: Mapping[str, float] | None = None,
) -> DatasetSummary:
    """What is in a data set; structures that `validate` calls unsound enter the counts only.

    Args:
        structures: of one data set.
        issues: of `validate`, where they are known: what they name is not looked for twice.
        shortest_distances: of `check`, likewise.
    """
    sound, n_duplicates = _checked(structures) if issues is None else _as_found(structures, issues)
    sizes = [len(s) for s in structures]
    if shortest_distances is None:
        shortest_distances = Contacts.of(sound, range(len(sound))).by_pair()
    return DatasetSummary(
        sources=_count(s.source for s in structures if s.source),
        n_structures=len(structures),
        n_atoms=sum(sizes),
        sizes=_sizes(sizes),
        elements=_elements(structures),
        compositions=_count(formula(s.atoms) for s in structures),
        periodicity=_count("".join("FT"[int(p)] for p in s.atoms.pbc) for s in structures),
        isolated_atoms={s.atoms.get_chemical_formula(): s.energy for s in sound if is_isolated_atom(s)},
        labels=_labels(structures),
        label_keys=_label_keys(structures),
        info_keys=_count(k for s in structures for k in s.info if k != FOUND),
        config_types=_count(str(s.info["config_type"]) for s in structures if "config_type" in s.info),
        energy_residual=_energy_residual(sound),
        forces=_spread([s.forces for s in sound if s.forces is not None]),
        stress=_spread([s.stress for s in sound if s.stress is not None]),
        shortest_distances=dict(shortest_distances),
        n_duplicates=n_duplicates,
    )


def inspect_report(
    structures: Sequence[Structure],
    issues: Sequence[Issue] | None = None,
    shortest_distances: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The summary and the issues of a data set as one JSON-able dictionary with keys "summary", "issues" and "ok".

    Args:
        structures: of one data set, read with `require_energy=False` so that what is missing can be reported.
        issues: of `validate` or `check`, which is called if None.
        shortest_distances: of `check`; looked for if None.
    """
    if issues is None:
        checked = check(structures)
        issues, shortest_distances = checked.issues, checked.shortest_distances
    return {
        "summary": summary(structures, issues, shortest_distances).to_dict(),
        "issues": [asdict(issue) | {"indices": list(issue.indices)} for issue in issues],
        "ok": all(issue.level != "error" for issue in issues),
    }


def _checked(structures: Sequence[Structure]) -> tuple[list[Structure], int]:
    """Sound structures, and how many of them equal an earlier one."""
    sound = [s for s in structures if is_sound(s)]
    return sound, int((duplicate_groups(sound) != np.arange(len(sound))).sum())


def _as_found(structures: Sequence[Structure], issues: Sequence[Issue]) -> tuple[list[Structure], int]:
    """The same from what `validate` has found."""
    unsound = {i for issue in issues if issue.code in UNSOUND for i in issue.indices}
    sound = [s for i, s in enumerate(structures) if i not in unsound]
    return sound, sum(len(issue.indices) for issue in issues if issue.code in DUPLICATES)


def _count(items: Iterable[Hashable]) -> dict[Any, int]:
    return dict(Counter(items).most_common())


def _sizes(sizes: Sequence[int]) -> dict[str, float]:
    if not sizes:
        return {}
    return {"smallest": min(sizes), "median": float(np.median(sizes)), "largest": max(sizes)}


def _elements(structures: Sequence[Structure]) -> dict[str, int]:
    counts = np.zeros(len(chemical_symbols), dtype=int)
    for structure in structures:
        z = structure.species
        counts += np.bincount(z[(z >= 0) & (z < len(chemical_symbols))], minlength=len(chemical_symbols))
    return {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}


def _labels(structures: Sequence[Structure]) -> dict[str, int]:
    labels = {name: sum(getattr(s, name) is not None for s in structures) for name in ("energy", "forces", "stress")}
    return labels | {"weight": sum(s.weight != 1.0 for s in structures)}


def _label_keys(structures: Sequence[Structure]) -> dict[str, dict[str, int]]:
    found = [s.info[FOUND] for s in structures if FOUND in s.info]
    chosen = {label: _count(f[label] for f in found if f[label]) for label in ("energy", "forces", "stress")}
    return chosen | {"other energies": _count(key for f in found for key in f["other_energies"])}


def _energy_residual(structures: Sequence[Structure]) -> dict[str, float] | None:
    labelled = [s for s in structures if s.energy is not None and not is_isolated_atom(s)]
    if not labelled:
        return None
    residuals = composition_residuals(labelled)
    rms = float(np.sqrt(np.mean(residuals**2)))
    return {"rms": rms, "lowest": float(residuals.min()), "highest": float(residuals.max())}


def _spread(arrays: Sequence[np.ndarray]) -> dict[str, float] | None:
    if not arrays:
        return None
    values = np.concatenate([array.ravel() for array in arrays])
    largest = float(np.abs(values, out=values).max())
    return {"rms": float(np.sqrt(np.mean(np.square(values, out=values)))), "largest": largest}
