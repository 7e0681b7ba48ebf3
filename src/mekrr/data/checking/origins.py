"""What a reader had to choose among: labels of several origins, under several keys, or of contradicting values."""

from collections.abc import Iterator, Sequence

from mekrr.data.checking.issues import Issue, found_issue, named_sources
from mekrr.data.reading.drawer import FOUND
from mekrr.data.reading.structure import Structure


def label_remarks(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    """Warnings about labels that were left out, or chosen among several."""
    yield from _energy_choice(structures, sound)
    yield from _energy_keys(structures, sound)
    yield from _origins(structures, sound)
    yield from _stress_left_out(structures, sound)
    yield from _contradictions(structures, sound)
    yield from _own_results(structures, sound)
    yield from _mixed_units(structures, sound)


def _origins(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    """Where forces or stress of another origin were at hand."""
    for label in ("forces", "stress"):
        left_out, beside, unnamed = [], [], []
        for i in sound:
            found = structures[i].info.get(FOUND) or {}
            chosen, energy = found.get(label), found.get("energy")
            if other := (found.get("left_out") or {}).get(label):
                words = f"{label} under {other} are left out: the energy, {energy}, is of another origin"
                left_out.append((i, words))
            if other := (found.get("beside") or {}).get(label):
                beside.append((i, f"{label} are read from {chosen}, not from {other}"))
            if other := (found.get("unnamed") or {}).get(label):
                words = f"it has no {label} under the key that is named, and those under {other} are not read"
                unnamed.append((i, words))
        advice = f"energies and {label} must be of one calculation; --{label}-key chooses another"
        yield from found_issue("warning", f"{label}-origin", left_out, structures, advice)
        yield from found_issue("warning", f"{label}-choice", beside, structures, advice)
        advice = f"give the {label} of all structures one name, or name none"
        yield from found_issue("warning", f"{label}-unnamed", unnamed, structures, advice)


def _stress_left_out(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    keys = {i: (structures[i].info.get(FOUND) or {}).get("stress_left_out") for i in sound}
    found = [
        (i, f"its {key} is left out: it does not repeat in all three directions") for i, key in keys.items() if key
    ]
    return found_issue("warning", "stress-left-out", found, structures, "nothing to do, unless pbc is wrong")


def _contradictions(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    found = []
    for i in sound:
        if pair := (structures[i].info.get(FOUND) or {}).get("contradiction"):
            key, virial, stress, implied = pair
            what = f"{key}, which is read, is {stress:.4g} where {virial} over -volume is {implied:.4g} eV/Angstrom^3"
            found.append((i, what))
    return found_issue("warning", "stress-virial", found, structures, "name the one that is right, and its unit")


def _mixed_units(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    units = {i: (structures[i].info.get(FOUND) or {}).get("forces_unit") for i in sound}
    found = [
        (i, f"forces are read in {unit}, by the units of energies and lengths") for i, unit in units.items() if unit
    ]
    advice = "codes that give energies in Ha or Ry mostly give forces per Bohr: name their unit with --forces-unit"
    return found_issue("warning", "forces-unit", found, structures, advice)


def _own_results(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    """Where a user has named results of a potential as labels."""
    found = []
    for i in sound:
        record = structures[i].info.get(FOUND) or {}
        if record.get("written_by") and str(record.get("energy")).startswith("calc:"):
            found.append((i, f"the labels are results of mekrr {record['written_by']}, a potential's own"))
    return found_issue("warning", "own-results", found, structures, "as asked by naming their key")


def _energy_choice(structures: Sequence[Structure], sound: Sequence[int]) -> list[Issue]:
    """Where another energy than the one chosen was at hand and differs, unless its key was named."""
    differing: list[tuple[float, int, str]] = []
    for i in sound:
        structure, keys = structures[i], structures[i].info.get(FOUND) or {}
        others = {} if keys.get("named") else keys.get("other_energies", {})
        for key, value in others.items():
            difference = 1e3 * abs(value - (structure.energy or 0.0)) / len(structure)
            what = f"{key} differs from {keys['energy']}, which is read, by {difference:.2f} meV/atom"
            differing += [(difference, i, what)] * (difference > 1e-3)
    found = [(i, what) for _, i, what in sorted(differing, reverse=True)]
    return found_issue("warning", "energy-choice", found, structures, "name the key of the energy to choose another")


def _energy_keys(structures: Sequence[Structure], sound: Sequence[int]) -> Iterator[Issue]:
    """Where the energies of one data set come from different keys, and may be different quantities."""
    found = [str((structures[i].info.get(FOUND) or {}).get("energy")) for i in sound]
    counts = {key: found.count(key) for key in sorted(set(found) - {"None"})}
    if len(counts) > 1:
        listed = ", ".join(f"{key} ({n})" for key, n in counts.items())
        advice = "name the key of the energy to read one quantity throughout"
        yield Issue(
            "warning",
            "energy-keys",
            f"{named_sources(structures)}: energies come from several keys, {listed}; {advice}",
        )
