"""The rows that commands, JSON and the page show."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols

from mekrr.pages.explain.explanation import Explanation
from mekrr.pages.words import number
from mekrr.typing import Float, Tensor

SHOWN = 10  # rows of a list of extremes


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over atoms, eV."""

    mean: float
    spread: float

    @staticmethod
    def of(values: Float[Tensor, "atoms"]) -> "Spread":
        """Of some atoms; the spread of a single one is 0."""
        return Spread(float(values.mean()), float(values.std(correction=0)))


@dataclass(frozen=True)
class SpeciesRow:
    """What the atoms of one element carry.

    Attributes:
        symbol: of the element.
        n_atoms: explained.
        energy: of an atom.
        prior: its part that was not learned by the kernel.
        kernel: its part that was.
        tangent: its part that a change of the network's weights makes; None without a tangent kernel.
        leans_on: mean kernel part by the element of the inducing environments weighed, eV; empty for the exact solver.
        deviation: mean standard deviation of an atom's energy, eV.
        distance: median to the nearest remembered environment; infinite for an element never seen.
        usual: see Known.usual; None where there is none.
        beyond: share of the atoms that lie further than that from all remembered ones.
    """

    symbol: str
    n_atoms: int
    energy: Spread
    prior: Spread
    kernel: Spread
    tangent: Spread | None
    leans_on: dict[str, float]
    deviation: float
    distance: float
    usual: float | None
    beyond: float


def species_rows(found: Explanation) -> list[SpeciesRow]:
    """One row an element, in the order of atomic numbers."""
    return [_species_row(found, int(z)) for z in torch.unique(found.species)]


def _species_row(found: Explanation, z: int) -> SpeciesRow:
    of_z = found.species == z
    parts = found.kernel_by_species
    leans_on = {} if parts is None else dict(zip(found.elements, parts[of_z].mean(0).tolist(), strict=True))
    return SpeciesRow(
        chemical_symbols[z],
        int(of_z.sum()),
        Spread.of(found.energy[of_z]),
        Spread.of(found.prior[of_z]),
        Spread.of(found.kernel[of_z]),
        Spread.of(found.tangent[of_z]) if found.fitted.tangent_share else None,
        {chemical_symbols[e]: value for e, value in leans_on.items()},
        float(found.deviation[of_z].mean()),
        float(found.distance[of_z].median()),
        found.known.usual.get(z),
        float((found.novelty[of_z] > 1).double().mean()),
    )


@dataclass(frozen=True)
class GroupRow:
    """A training structure or an inducing environment, and how it is weighed; see mekrr.pages.explain.weights.

    Attributes:
        name: of it.
        weight: mean over the structures explained.
        size: mean of its absolute value, by which rows are sorted.
        value: what is weighed, eV.
        contribution: mean of weight times value, eV.
        term: mean term of the expansion, eV.
    """

    name: str
    weight: float
    size: float
    value: float
    contribution: float
    term: float


def group_rows(found: Explanation, structure: int | None = None, most: int = SHOWN) -> list[GroupRow]:
    """What the energy of one structure, or of all on average, leans on most."""
    chosen = slice(None) if structure is None else slice(structure, structure + 1)
    weights, terms = found.weights[chosen], found.terms[chosen].mean(0)
    sizes, means, values = weights.abs().mean(0), weights.mean(0), found.weighing.values
    return [
        GroupRow(
            found.known.name(g, found.fitted),
            float(means[g]),
            float(sizes[g]),
            float(values[g]),
            float(means[g] * values[g]),
            float(terms[g]),
        )
        for g in sizes.argsort(descending=True)[:most].tolist()
    ]


def cancellation(parts: Float[Tensor, "structures groups"]) -> float:
    """How many times larger parts are in size than their sum; the median over structures."""
    ratio = parts.abs().sum(1) / parts.sum(1).abs()
    return float(ratio.median())


@dataclass(frozen=True)
class AtomRow:
    """An atom, far from the data or not.

    Attributes:
        where: file, index and formula of its structure.
        atom: its index there, from 0.
        symbol: of its element.
        distance: to the nearest remembered environment of its species.
        novelty: the same over what is usual for the species; None where nothing is.
        nearest: name of the nearest one; None for an element never seen.
        energy: eV.
        deviation: eV.
        relative_deviation: the same over the mean of its element here.
    """

    where: str
    atom: int
    symbol: str
    distance: float
    novelty: float | None
    nearest: str | None
    energy: float
    deviation: float
    relative_deviation: float


def furthest_atoms(found: Explanation, most: int = SHOWN) -> list[AtomRow]:
    """The atoms furthest from the training data in units of what is usual for them; the furthest of each structure."""
    return _extremes(found, found.novelty.nan_to_num(nan=-1.0, posinf=torch.inf), most)


def most_uncertain_atoms(found: Explanation, most: int = SHOWN) -> list[AtomRow]:
    """The atoms whose deviations stand out most among those of their element, one of each structure.

    Deviations themselves do not tell: of one composition only sums of atomic energies are known, so that the largest
    ones are of the same element in every structure, and say nothing of any.
    """
    return _extremes(found, relative_deviation(found), most)


def relative_deviation(found: Explanation) -> Float[Tensor, "atoms"]:
    """Each atom's deviation over the mean of its element here."""
    means = torch.ones_like(found.deviation)
    for z in torch.unique(found.species):
        of_z = found.species == z
        means[of_z] = found.deviation[of_z].mean().clamp_min(1e-300)
    return found.deviation / means


def _extremes(found: Explanation, values: Float[Tensor, "atoms"], most: int) -> list[AtomRow]:
    """One atom a structure, or the list would hold the atoms of one structure alone."""
    structure = found.structure.tolist()
    largest: dict[int, int] = {}
    for i in values.argsort(descending=True).tolist():
        largest.setdefault(structure[i], i)
        if len(largest) == most:
            break
    return [atom_row(found, i) for i in largest.values()]


def atom_row(found: Explanation, i: int) -> AtomRow:
    """The row of one atom, counted over all structures."""
    novelty, nearest = float(found.novelty[i]), int(found.nearest[i])
    return AtomRow(
        found.structures[int(found.structure[i])].where,
        int(found.atom[i]),
        chemical_symbols[int(found.species[i])],
        float(found.distance[i]),
        None if novelty != novelty else novelty,
        None if nearest < 0 else nearest_name(found, nearest),
        float(found.energy[i]),
        float(found.deviation[i]),
        float(relative_deviation(found)[i]),
    )


def nearest_name(found: Explanation, index: int) -> str:
    """The name of a remembered environment, with its atom where groups are structures."""
    group = int(found.known.group[index])
    name = found.known.name(group, found.fitted)
    if not found.known.are_training_atoms:
        return name
    first = int(found.fitted.labels.n_atoms[:group].sum())
    return f"atom {index - first} of {name}"


@dataclass(frozen=True)
class StructureRow:
    """A structure with its parts.

    Attributes:
        where: file, index and formula.
        n_atoms: of it.
        energy: total, eV.
        prior: its part that was not learned by the kernel, eV.
        kernel: its part that was, eV.
        tangent: its part that a change of the network's weights makes, eV; None without a tangent kernel.
        energy_std: calibrated standard deviation of the energy, eV.
        novelty: of its furthest atom; None where nothing is usual.
        leans_on: the largest contributions.
        nearest: share of its atoms whose nearest environment belongs to each training structure, largest first; empty
            for the sparse solver, which remembers no structures.
    """

    where: str
    n_atoms: int
    energy: float
    prior: float
    kernel: float
    tangent: float | None
    energy_std: float
    novelty: float | None
    leans_on: list[GroupRow]
    nearest: dict[str, float]


def structure_row(found: Explanation, t: int, most: int = 5) -> StructureRow:
    """The row of structure t."""
    ends = found.n_atoms.cumsum(0)
    atoms = slice(int(ends[t] - found.n_atoms[t]), int(ends[t]))
    novelty = found.novelty[atoms]
    known = novelty[~novelty.isnan()]
    return StructureRow(
        found.structures[t].where,
        int(found.n_atoms[t]),
        float(found.energy[atoms].sum()),
        float(found.prior[atoms].sum()),
        float(found.kernel[atoms].sum()),
        float(found.tangent[atoms].sum()) if found.fitted.tangent_share else None,
        float(found.energy_std[t]),
        float(known.max()) if len(known) else None,
        group_rows(found, t, most),
        _nearest_structures(found, atoms, most),
    )


def _nearest_structures(found: Explanation, atoms: slice, most: int) -> dict[str, float]:
    if not found.known.are_training_atoms:
        return {}
    counts: dict[int, int] = defaultdict(int)
    for index in found.nearest[atoms].tolist():
        if index >= 0:
            counts[int(found.known.group[index])] += 1
    order = sorted(counts, key=lambda group: -counts[group])[:most]
    total = int(atoms.stop - atoms.start)
    return {found.known.name(group, found.fitted): counts[group] / total for group in order}


def structure_rows(found: Explanation) -> list[StructureRow]:
    """All structures, in the order given."""
    return [structure_row(found, t) for t in range(len(found.n_atoms))]


def furthest_structures(rows: list[StructureRow], most: int = SHOWN) -> list[StructureRow]:
    """Those with the furthest atom first."""
    return sorted(rows, key=lambda row: -1.0 if row.novelty is None else -row.novelty)[:most]


def notes(found: Explanation) -> list[str]:
    """What a reader must know before reading anything into the numbers."""
    said = [
        "Only total energies are measured: how they are shared among atoms follows from the kernel and the prior, and "
        "another choice of these would share them otherwise."
    ]
    if found.fitted.prior.undetermined:
        said.append(
            "The training compositions do not determine the energies per element one by one: differences between "
            "elements carry no meaning, differences between atoms of one element do."
        )
    if found.fitted.tangent_share:
        said.append(
            "This potential learns twice: from features, which is the kernel part and can be traced to what it "
            "remembers, and from what a change of the network's weights does, which is the tangent part and cannot."
        )
    said.append(_sizes(found))
    if found.distance.isinf().any():
        said.append("Elements the potential was not trained on have no remembered environment; only the prior speaks.")
    return said


def _sizes(found: Explanation) -> str:
    what = "training structures" if found.known.are_training_atoms else "inducing environments"
    contributions, terms = (number(cancellation(parts), 1) for parts in (found.contributions, found.terms))
    return (
        f"Contributions of {what} (weight times value) are {contributions} times as large in size as their sum, in the "
        "median; where that is far above 1, read weights and not single contributions. The terms of the expansion are "
        f"{terms} times as large as their sum: no single one of them means anything."
    )
