"""What is wrong, or looks wrong, with a data set."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mekrr.data.checking.distances import too_short
from mekrr.data.checking.duplicates import duplicate_groups, have_equal_labels
from mekrr.data.checking.references import mixed_references
from mekrr.data.checking.soundness import SOUND, Rule, no_energy, unknown_elements
from mekrr.data.checking.trajectories import consecutive_steps, contradiction
from mekrr.data.reading.labels import FOUND
from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError

NET_FORCE = 0.01
"""eV/Angstrom per atom: no translation-invariant potential can fit a larger net force below this error."""

VIOLENT_FORCE = 10.0
"""eV/Angstrom: larger components usually belong to structures that are left out of a fit."""


@dataclass(frozen=True)
class Issue:
    """One kind of fault and the structures that have it.

    Attributes:
        level: errors forbid using the data, warnings do not.
        code: short name, stable from version to version.
        message: file, index, what is wrong, what to do.
        indices: positions of the structures in the list that was validated, the worst or first one leading.
    """

    level: Literal["error", "warning"]
    code: str
    message: str
    indices: tuple[int, ...] = ()


def validate(
    structures: Sequence[Structure], known_species: Collection[int] | None = None, require_energy: bool = True
) -> list[Issue]:
    """All issues of a data set, errors first; an empty list means it is in order.

    Args:
        structures: of one data set.
        known_species: atomic numbers that the backbone knows; None skips this check.
        require_energy: False for structures to predict.
    """
    if not structures:
        return [Issue("error", "empty", "the data set holds no structures: check the file and the index")]
    errors, sound = _unsound(structures)
    errors += _broken_rules(structures, sound, known_species, require_energy)
    agreeing, conflicting = _duplicates(structures, sound)
    errors += _issue("error", "duplicates-conflict", conflicting, structures, "keep the calculation you trust")
    doubled = _issue("warning", "duplicates", agreeing, structures, "splits keep them together; one suffices")
    return [*errors, *doubled, *_warnings(structures, sound)]


def raise_on_errors(issues: Sequence[Issue]) -> None:
    """Raise if there is an error among the issues.

    Raises:
        DataError: with the messages of all errors.
    """
    errors = [issue.message for issue in issues if issue.level == "error"]
    if errors:
        raise DataError("\n".join(errors))


def _issue(
    level: Literal["error", "warning"], code: str, found: Sequence[tuple[int, str]], structures: Sequence[Structure],
    advice: str,
) -> list[Issue]:  # fmt: skip
    """One issue about all structures found, whose message describes the first."""
    if not found:
        return []
    index, complaint = found[0]
    more = f" ({len(found) - 1} more like it: {_listed(structures, found[1:])})" if len(found) > 1 else ""
    message = f"{structures[index].where}: {complaint}{more}; {advice}"
    return [Issue(level, code, message, tuple(i for i, _ in found))]


def _listed(structures: Sequence[Structure], found: Sequence[tuple[int, str]]) -> str:
    places = ", ".join(str(structures[i].index) for i, _ in found[:5])
    return f"index {places}{', ...' if len(found) > 5 else ''}"


def _unsound(structures: Sequence[Structure]) -> tuple[list[Issue], list[int]]:
    """Issues that make a structure unusable, and the indices of the structures that have none."""
    issues: list[Issue] = []
    sound = list(range(len(structures)))
    for rule in SOUND:
        issues += _apply(rule, structures, sound)
        broken = set(issues[-1].indices) if issues else set()
        sound = [i for i in sound if i not in broken]
    return issues, sound


def _apply(rule: Rule, structures: Sequence[Structure], indices: Sequence[int]) -> list[Issue]:
    found = [(i, complaint) for i in indices if (complaint := rule.complaint(structures[i]))]
    return _issue("error", rule.code, found, structures, rule.advice)


def _broken_rules(
    structures: Sequence[Structure], sound: Sequence[int], known: Collection[int] | None, require_energy: bool
) -> list[Issue]:
    rules = [Rule("no-energy", no_energy, "name the key that holds it, or leave the structure out")] * require_energy
    rules += [unknown_elements(known)] if known is not None else []
    return [issue for rule in rules for issue in _apply(rule, structures, sound)]


def _duplicates(
    structures: Sequence[Structure], sound: Sequence[int]
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Structures that equal an earlier one, with the complaint: those whose labels agree, and those that conflict."""
    agreeing, conflicting = [], []
    first = duplicate_groups([structures[i] for i in sound])
    for position, earlier in enumerate(first):
        i, j = sound[position], sound[int(earlier)]
        name = f"it equals {structures[j].source or 'structure'}, index {structures[j].index}"
        if i != j and have_equal_labels(structures[i], structures[j]):
            agreeing.append((i, f"{name}, labels included"))
        elif i != j:
            conflicting.append((i, f"{name}, but the labels differ"))
    return agreeing, conflicting


def _warnings(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    yield from _short_distances(structures, sound)
    yield from _net_forces(structures, sound)
    yield from _violent_forces(structures, sound)
    yield from _mixed_references(structures, sound)
    yield from _units(structures, sound)
    yield from _energy_choice(structures, sound)
    yield from _energy_keys(structures, sound)


def _short_distances(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    found = [(i, complaint) for i in sound if (complaint := too_short(structures[i].atoms))]
    return _issue("warning", "short-distance", found, structures, "check the positions, the cell and their unit")


def _net_forces(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    nets = {i: np.abs(f.mean(axis=0)).max() for i in sound if (f := structures[i].forces) is not None and len(f) > 1}
    worst = sorted((i for i in nets if nets[i] > NET_FORCE), key=lambda i: -nets[i])
    found = [(i, f"a net force of {nets[i]:.3f} eV/Angstrom per atom") for i in worst]
    zeroed = any(not f.any(axis=1).all() for i in worst[:1] if (f := structures[i].forces) is not None)
    advice = (
        "atoms with forces of exactly zero suggest that constraints were applied: store the raw forces"
        if zeroed
        else "no potential can fit it; it bounds the force error from below"
    )
    return _issue("warning", "net-force", found, structures, advice)


def _violent_forces(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    largest = {i: np.abs(f).max() for i in sound if (f := structures[i].forces) is not None}
    worst = sorted((i for i in largest if largest[i] > VIOLENT_FORCE), key=lambda i: -largest[i])
    found = [(i, f"a force component of {largest[i]:.1f} eV/Angstrom") for i in worst]
    return _issue(
        "warning", "violent-forces", found, structures, "a few of these can rule a fit: consider dropping them"
    )


def _mixed_references(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    gap = mixed_references([structures[i] for i in sound])
    if not gap:
        return []
    advice = "energies of different codes, functionals or reference states do not belong in one fit"
    return [Issue("warning", "mixed-references", f"{_sources(structures)}: {gap}; {advice}")]


def _units(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    steps = consecutive_steps(structures, sound)
    n_atoms = float(np.median([len(structures[i]) for i in sound])) if sound else 1.0
    what = contradiction(steps, n_atoms)
    if what:
        yield Issue("warning", "units", f"{_sources(structures)}: {what}; name the units of the file")
        return
    found = [(int(i), "the energy jumps to the next frame by more than the forces allow") for i in steps.jumps()]
    advice = "mixed references, methods or degrees of convergence do not belong in one fit"
    yield from _issue("warning", "energy-jumps", found, structures, advice)


def _energy_choice(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    """Where another energy than the one chosen was at hand and differs."""
    differing: list[tuple[float, int, str]] = []
    for i in sound:
        structure, keys = structures[i], structures[i].info.get(FOUND) or {}
        for key, value in keys.get("other_energies", {}).items():
            difference = 1e3 * abs(value - (structure.energy or 0.0)) / len(structure)
            what = f"{key} differs from {keys['energy']}, which is read, by {difference:.2f} meV/atom"
            differing += [(difference, i, what)] * (difference > 1e-3)
    found = [(i, what) for _, i, what in sorted(differing, reverse=True)]
    return _issue("warning", "energy-choice", found, structures, "name the key of the energy to choose another")


def _energy_keys(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    """Where the energies of one data set come from different keys, and may be different quantities."""
    found = [str((structures[i].info.get(FOUND) or {}).get("energy")) for i in sound]
    counts = {key: found.count(key) for key in sorted(set(found) - {"None"})}
    if len(counts) > 1:
        listed = ", ".join(f"{key} ({n})" for key, n in counts.items())
        advice = "name the key of the energy to read one quantity throughout"
        yield Issue(
            "warning", "energy-keys", f"{_sources(structures)}: energies come from several keys, {listed}; {advice}"
        )


def _sources(structures: Sequence[Structure]) -> str:
    return ", ".join(sorted({s.source for s in structures if s.source})) or "these structures"
