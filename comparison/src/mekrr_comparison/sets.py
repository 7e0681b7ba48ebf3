"""The structures of a benchmark: read, filtered, named, divided, aligned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mekrr.data import (
    LabelKeys,
    Structure,
    composition_matrix,
    datasets,
    duplicate_groups,
    fit_composition_reference,
    load_dataset,
    outside_row_space,
    raise_on_errors,
    read_structures,
    split,
    validate,
)
from mekrr.errors import DataError

OTHER_ZERO = 0.5  # eV/atom between two sets that no chemistry of the same elements explains
NO_VALUE = "(none)"
TRAIN_SHARE = 0.7  # of the groups of a grouped split, before structures are drawn


@dataclass(frozen=True)
class DataSet:
    """Structures under one name, with what was done to them.

    Attributes:
        name: as in tables.
        structures: with energies.
        notes: sentences for the settings.
    """

    name: str
    structures: list[Structure]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What one fit is given and tested on."""

    training: list[Structure]
    validation: list[Structure]
    test: list[Structure]


@dataclass(frozen=True)
class Sizes:
    """How many structures each part has; None for as many as there are.

    Attributes:
        train: training and validation together: what a method may see.
        validation: of those, for methods that need held-out structures.
        test: at most.
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None


def read_sets(
    sources: Sequence[str],
    keys: LabelKeys | None = None,
    index: str = ":",
    max_force: float | None = None,
    by: str | None = None,
) -> list[DataSet]:
    """One data set a source, or one a value of an info key.

    Args:
        sources: files, or names that `mekrr data list` shows.
        keys: of the labels.
        index: which structures of each file.
        max_force: eV/Angstrom; structures with a larger force component are left out, and the notes say so.
        by: info key; the structures of all sources are divided by its values.

    Raises:
        DataError: when a source cannot be used, or nothing is left.
    """
    found = [DataSet(name, _read(source, keys, index)) for name, source in zip(_names(sources), sources, strict=True)]
    if by is not None:
        found = _divided([s for one in found for s in one.structures], by)
    return [_quiet(one, max_force) for one in found]


def _read(source: str, keys: LabelKeys | None, index: str) -> list[Structure]:
    is_name = not Path(source).exists() and source in {entry.name for entry in datasets()}
    structures = load_dataset(source) if is_name else read_structures(source, keys, index)
    raise_on_errors(validate(structures))
    return structures


def _names(sources: Sequence[str]) -> list[str]:
    """File names without endings, numbered where they repeat."""
    stems = [Path(source).name.split(".")[0] for source in sources]
    return [f"{stem}-{k + 1}" if stems.count(stem) > 1 else stem for k, stem in enumerate(stems)]


def _divided(structures: Sequence[Structure], key: str) -> list[DataSet]:
    """One set a value; structures without the key are a set of their own."""
    found: dict[str, list[Structure]] = {}
    for structure in structures:
        found.setdefault(str(structure.info.get(key, NO_VALUE)), []).append(structure)
    if list(found) == [NO_VALUE]:
        there = ", ".join(sorted({name for s in structures for name in s.info})) or "none"
        raise DataError(f"no info key {key!r} to divide by; there are: {there}")
    return [DataSet(name, found[name]) for name in sorted(found, key=_natural)]


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers before words, by their size."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def _quiet(data: DataSet, max_force: float | None) -> DataSet:
    if max_force is None:
        return data
    kept = [s for s in data.structures if s.forces is None or np.abs(s.forces).max() < max_force]
    if not kept:
        raise DataError(f"{data.name}: every structure has a force component of {max_force:g} eV/Angstrom or more")
    left_out = len(data.structures) - len(kept)
    note = f"{data.name}: {left_out} structures with a force component of {max_force:g} eV/Å or more left out"
    return replace(data, structures=kept, notes=(*data.notes, note) if left_out else data.notes)


def named(sets: Sequence[DataSet], expression: str) -> DataSet:
    """The union of sets, by their names or numbers from 1, e.g. "0+1+4" or "1+2".

    Raises:
        DataError: for a name that is not there.
    """
    by_name = {data.name: data for data in sets}
    numbered = {str(k + 1): data for k, data in enumerate(sets)}
    chosen = []
    for word in expression.split("+"):
        if word not in by_name and word not in numbered:
            raise DataError(f"no data set is called {word!r}; there are: {', '.join(by_name)}, also by number from 1")
        chosen.append(by_name.get(word) or numbered[word])
    structures = [s for data in chosen for s in data.structures]
    return DataSet("+".join(d.name for d in chosen), structures, tuple(n for d in chosen for n in d.notes))


def union(sets: Sequence[DataSet]) -> DataSet:
    """All sets as one."""
    return named(sets, "+".join(str(k + 1) for k in range(len(sets)))) if len(sets) > 1 else sets[0]


def divide(structures: Sequence[Structure], sizes: Sizes, seed: int, group: str | None = None) -> Parts:
    """A random split, or one that keeps groups whole between training and test.

    Args:
        structures: of one data set.
        sizes: of the parts; without a test size all the rest is tested on.
        seed: of the split.
        group: info key whose values stay together; 70% of the structures, in whole groups, may be trained on.

    Raises:
        DataError: when there are too few structures or groups.
    """
    train = sizes.train or round(0.8 * len(structures))
    if group is None:
        found = split(structures, train=train, seed=seed)
    else:
        found = split(structures, train=TRAIN_SHARE, method="group", group_key=group, seed=seed)
    rng = np.random.default_rng(seed)
    pool = rng.permutation(found.train)
    if sizes.train is not None and len(pool) < sizes.train:
        raise DataError(f"{sizes.train} training structures asked for, but {len(pool)} are there; lower --train-size")
    chosen = [structures[i] for i in (pool if sizes.train is None else pool[: sizes.train])]
    test = [structures[i] for i in np.sort(rng.permutation(found.test)[: sizes.test])]
    if not test:
        raise DataError(f"{len(structures)} structures leave none to test on; lower --train-size")
    return Parts(*held_out(chosen, sizes), test)


def held_out(chosen: Sequence[Structure], sizes: Sizes) -> tuple[list[Structure], list[Structure]]:
    """Training and validation out of what a method may see: a tenth is for validation unless told otherwise."""
    n = max(1, round(0.1 * len(chosen))) if sizes.validation is None else sizes.validation
    if n >= len(chosen):
        raise DataError(f"{n} validation structures leave none of {len(chosen)} to train on; lower --validation-size")
    return list(chosen[n:]), list(chosen[:n])


def across(one: DataSet, other: DataSet, sizes: Sizes, seed: int) -> Parts:
    """Train on one set and test on another, without the structures that both have.

    Raises:
        DataError: when the sets leave nothing to train or test on.
    """
    rng = np.random.default_rng(seed)
    labels = duplicate_groups([*one.structures, *other.structures])
    pool = rng.permutation(np.unique(labels[: len(one.structures)]))
    if sizes.train is not None and len(pool) < sizes.train:
        raise DataError(f"{one.name} has {len(pool)} different structures, fewer than --train-size {sizes.train}")
    known = set(labels[: len(one.structures)].tolist())
    fresh = [s for s, label in zip(other.structures, labels[len(one.structures) :], strict=True) if label not in known]
    if not fresh:
        raise DataError(f"every structure of {other.name} is in {one.name} as well; nothing is left to test on")
    order = np.sort(rng.permutation(len(fresh))[: sizes.test])
    chosen = [one.structures[i] for i in pool[: sizes.train]]
    return Parts(*held_out(chosen, sizes), [fresh[i] for i in order])


def aligned(one: DataSet, other: DataSet, when: str = "auto") -> DataSet:
    """`other` with its energies moved to the zero of `one`: the difference of their composition references is added.

    Args:
        one: trained on.
        other: tested on.
        when: "auto" where the zeros differ by more than chemistry does, "always" or "never".
    """
    both = [*one.structures, *other.structures]
    counts, elements = composition_matrix(both)
    energies = np.array([s.energy for s in both], dtype=float)
    cut, n = len(one.structures), counts.sum(axis=1)
    outside, _ = outside_row_space(counts[:cut], counts[cut:], elements)
    if when == "auto" and outside.any():
        note = (
            f"{other.name}: energies not shifted. The compositions of {one.name} do not determine those of "
            f"{int(outside.sum())} structures, so their energies hold constants that no fit to {one.name} can know"
        )
        return replace(other, notes=(*other.notes, note))
    first, second = (
        fit_composition_reference(counts[part], energies[part], elements, 1 / n[part])
        for part in (slice(None, cut), slice(cut, None))
    )
    moves = first(counts[cut:]) - second(counts[cut:])
    per_atom = float(np.mean(moves / n[cut:]))
    if when == "never" or (when == "auto" and abs(per_atom) < OTHER_ZERO):
        return other
    moved = [replace(s, energy=(s.energy or 0.0) + move) for s, move in zip(other.structures, moves, strict=True)]
    note = (
        f"{other.name}: energies shifted to the composition reference of {one.name}, {per_atom:+.3f} eV/atom on average"
    )
    return replace(other, structures=moved, notes=(*other.notes, note))
