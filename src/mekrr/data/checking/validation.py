"""What is wrong, or looks wrong, with a data set."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mekrr.data.checking.composition import ISOLATED_HEIGHT, isolated_atom_energies
from mekrr.data.checking.distances import Contacts
from mekrr.data.checking.duplicates import duplicate_groups, have_equal_labels
from mekrr.data.checking.issues import Issue, found_issue, named_sources
from mekrr.data.checking.magnitudes import per_atom, unit_of_lengths
from mekrr.data.checking.origins import label_remarks
from mekrr.data.checking.references import mixed_references
from mekrr.data.checking.soundness import SOUND, Rule, no_energy, unknown_elements
from mekrr.data.checking.trajectories import consecutive_steps, contradiction
from mekrr.data.checking.zeros import zero_forces, zero_stresses
from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError

NET_FORCE = 0.01
"""eV/Angstrom per atom: no translation-invariant potential can fit a larger net force below this error."""

LABELS = ("energy", "forces", "stress")
TWINS = "a fit takes the one with the most labels, and splits keep them together"

VIOLENT_FORCE = 10.0
"""eV/Angstrom: larger components usually belong to structures that are left out of a fit."""


@dataclass(frozen=True)
class Checked:
    """What one look at a data set gives.

    Attributes:
        issues: errors first; none means it is in order.
        shortest_distances: Angstrom, by pair of elements, of the structures that are sound.
    """

    issues: list[Issue]
    shortest_distances: dict[str, float]


def validate(
    structures: Sequence[Structure],
    known_species: Collection[int] | None = None,
    require_energy: bool = True,
    isolated_atoms: bool = False,
) -> list[Issue]:
    """All issues of a data set, errors first; an empty list means it is in order.

    Args:
        structures: of one data set.
        known_species: atomic numbers that the backbone knows; None skips this check.
        require_energy: False for structures to predict.
        isolated_atoms: whether a fit is to take references from isolated atoms, which must then be there.
    """
    return check(structures, known_species, require_energy, isolated_atoms).issues


def check(
    structures: Sequence[Structure],
    known_species: Collection[int] | None = None,
    require_energy: bool = True,
    isolated_atoms: bool = False,
) -> Checked:
    """The issues of a data set with what a summary would have to look for again; arguments are those of `validate`."""
    if not structures:
        return Checked([Issue("error", "empty", "the data set holds no structures: check the file and the index")], {})
    errors, sound = _unsound(structures)
    errors += _broken_rules(structures, sound, known_species, require_energy)
    errors += _no_isolated_atoms(structures) if isolated_atoms else []
    agreeing, conflicting = _duplicates(structures, sound)
    errors += found_issue("error", "duplicates-conflict", conflicting, structures, "keep the calculation you trust")
    doubled = found_issue("warning", "duplicates", agreeing, structures, TWINS)
    contacts = Contacts.of(structures, sound)
    advice = "check the positions, the cell and their unit"
    short = found_issue("warning", "short-distance", contacts.short, structures, advice)
    return Checked([*errors, *doubled, *short, *_warnings(structures, sound)], contacts.by_pair())


def raise_on_errors(issues: Sequence[Issue]) -> None:
    """Raise if there is an error among the issues.

    Raises:
        DataError: with the messages of all errors.
    """
    errors = [issue.message for issue in issues if issue.level == "error"]
    if errors:
        raise DataError("\n".join(errors))


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
    return found_issue("error", rule.code, found, structures, rule.advice)


def _broken_rules(
    structures: Sequence[Structure], sound: Sequence[int], known: Collection[int] | None, require_energy: bool
) -> list[Issue]:
    rules = [Rule("no-energy", no_energy, "name the key that holds it, or leave the structure out")] * require_energy
    rules += [unknown_elements(known)] if known is not None else []
    return [issue for rule in rules for issue in _apply(rule, structures, sound)]


def _no_isolated_atoms(structures: Sequence[Structure]) -> list[Issue]:
    if isolated_atom_energies(structures):
        return []
    what = f"no structure is an isolated atom (one atom, images at least {ISOLATED_HEIGHT:g} Angstrom away)"
    advice = "add isolated atoms with their energies, or fit without --isolated-atoms"
    return [Issue("error", "no-isolated-atoms", f"{named_sources(structures)}: {what}; {advice}")]


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
            agreeing.append((i, f"{name}, {_shared(structures[i], structures[j])}"))
        elif i != j:
            conflicting.append((i, f"{name}, but the labels differ"))
    return agreeing, conflicting


def _shared(one: Structure, other: Structure) -> str:
    """What of the labels of equal structures is equal."""
    both = [name for name in LABELS if all(getattr(s, name) is not None for s in (one, other))]
    either = [name for name in LABELS if any(getattr(s, name) is not None for s in (one, other))]
    return "labels included" if both == either else "and one of them has more labels"


def _warnings(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    yield from _zeros(structures, sound)
    yield from _net_forces(structures, sound)
    yield from _violent_forces(structures, sound)
    yield from _mixed_references(structures, sound)
    yield from _magnitudes(structures, sound)
    yield from _units(structures, sound)
    yield from label_remarks(structures, sound)


def _zeros(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    advice = "zeros that stand for missing labels would be fitted: take them out of the file, or name the right key"
    for code, what, found in (
        ("zero-forces", "forces of exactly zero on all atoms", zero_forces(structures, sound)),
        ("zero-stress", "a stress of exactly zero", zero_stresses(structures, sound)),
    ):
        why = f"{what}, where no symmetry asks for it"
        yield from found_issue("warning", code, [(i, why) for i in found], structures, advice)


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
    return found_issue("warning", "net-force", found, structures, advice)


def _violent_forces(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    largest = {i: np.abs(f).max() for i in sound if (f := structures[i].forces) is not None}
    worst = sorted((i for i in largest if largest[i] > VIOLENT_FORCE), key=lambda i: -largest[i])
    found = [(i, f"a force component of {largest[i]:.1f} eV/Angstrom") for i in worst]
    return found_issue(
        "warning", "violent-forces", found, structures, "a few of these can rule a fit: consider dropping them"
    )


def _mixed_references(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    gap = mixed_references([structures[i] for i in sound])
    if not gap:
        return []
    advice = "energies of different codes, functionals or reference states do not belong in one fit"
    return [Issue("warning", "mixed-references", f"{named_sources(structures)}: {gap}; {advice}")]


def _magnitudes(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    """Lengths and energies whose size speaks of another unit, whatever the order of the structures."""
    chosen = [structures[i] for i in sound]
    for what in (unit_of_lengths(chosen), per_atom(chosen)):
        if what:
            yield Issue("warning", "units", f"{named_sources(structures)}: {what}")


def _units(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    steps = consecutive_steps(structures, sound)
    n_atoms = float(np.median([len(structures[i]) for i in sound])) if sound else 1.0
    what = contradiction(steps, n_atoms)
    if what:
        yield Issue("warning", "units", f"{named_sources(structures)}: {what}; name the units of the file")
        return
    found = [(int(i), "the energy jumps to the next frame by more than the forces allow") for i in steps.jumps()]
    advice = "mixed references, methods or degrees of convergence do not belong in one fit"
    yield from found_issue("warning", "energy-jumps", found, structures, advice)
