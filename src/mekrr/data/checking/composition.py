"""Energies by composition: counts of elements, a least-squares energy per element, and what it leaves undetermined."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError
from mekrr.typing import Bool, Float, ndarray

ISOLATED_HEIGHT = 8.0
"""Angstrom: one atom whose periodic images are all at least this far away counts as isolated."""


def composition_matrix(
    items: Sequence[Structure | Iterable[int]], elements: Sequence[int] | None = None
) -> tuple[Float[ndarray, "structures elements"], tuple[int, ...]]:
    """How many atoms of each element each structure has, and the atomic numbers of the columns.

    Args:
        items: structures, or the atomic numbers of each.
        elements: the columns; by default every element that occurs, in ascending order.

    Raises:
        DataError: when an item has an element that is not among `elements`.
    """
    species = [np.asarray(item.species if isinstance(item, Structure) else list(item), dtype=int) for item in items]
    every = np.concatenate([*species, np.zeros(0, dtype=int)])
    owner = np.repeat(np.arange(len(species)), [len(z) for z in species])
    present = np.unique(every)
    columns = tuple(int(z) for z in (present if elements is None else elements))
    strangers = sorted(set(present.tolist()) - set(columns))
    if strangers:
        first = int(owner[np.isin(every, strangers)][0])
        raise DataError(f"structure {first} has {_symbols(strangers)}, but only {_symbols(columns)} are known here")
    # a column for each element that is asked for: with one for all there are, 100,000 structures would take 100 MB
    column_of = np.zeros(1 + max(columns, default=0), dtype=int)
    column_of[list(columns)] = np.arange(len(columns))
    cells = np.bincount(owner * len(columns) + column_of[every], minlength=len(species) * len(columns))
    return cells.reshape(len(species), len(columns)).astype(np.float64, order="F"), columns


@dataclass(frozen=True)
class CompositionReference:
    """One energy per element.

    Attributes:
        elements: atomic numbers.
        energies: shape (elements,), eV per atom; the minimum-norm solution where several fit equally well.
        rank: of the compositions it was fitted to; below len(elements) the energies are not unique.
    """

    elements: tuple[int, ...]
    energies: Float[ndarray, "elements"]
    rank: int

    @property
    def is_unique(self) -> bool:
        """Whether the compositions determine every element's energy."""
        return self.rank == len(self.elements)

    def __call__(self, counts: Float[ndarray, "structures elements"]) -> Float[ndarray, "structures"]:
        """Reference energies in eV of structures with these counts of `elements`."""
        return counts @ self.energies


def fit_composition_reference(
    counts: Float[ndarray, "structures elements"],
    energies: Float[ndarray, "structures"],
    elements: Sequence[int],
    weights: Float[ndarray, "structures"] | None = None,
    fixed: Mapping[int, float] | None = None,
) -> CompositionReference:
    """The energy per element that fits total energies best: minimise sum_t w_t (E_t - counts_t . e)^2.

    Args:
        counts: of `composition_matrix`.
        energies: total energies in eV.
        elements: atomic numbers of the columns.
        weights: of the squared residuals; 1 by default, 1/n where the noise variance grows with the number of atoms n.
        fixed: energies in eV by atomic number that are not fitted, e.g. those of isolated atoms.

    Raises:
        ValueError: when there is no structure or a number is not finite.
    """
    if len(energies) == 0 or not np.isfinite(energies).all():
        raise ValueError(f"composition fit needs finite energies of at least one structure, got {energies}")
    fixed = fixed or {}
    is_free = np.array([z not in fixed for z in elements])
    solution = np.array([fixed.get(z, 0.0) for z in elements])
    scale = np.sqrt(np.ones(len(energies)) if weights is None else weights)
    target = (energies - counts @ solution) * scale
    free, _, rank, _ = np.linalg.lstsq(counts[:, is_free] * scale[:, None], target, rcond=1e-10)
    solution[is_free] = free
    return CompositionReference(tuple(elements), solution, int(rank) + int((~is_free).sum()))


def outside_row_space(
    train: Float[ndarray, "structures elements"],
    new: Float[ndarray, "others elements"],
    elements: Sequence[int],
    tolerance: float = 1e-8,
) -> tuple[Bool[ndarray, "others"], list[str]]:
    """Which new compositions the training compositions do not determine, and why, in words.

    A composition is determined when it is a linear combination of training compositions. The words compare it with
    the nearest training composition, e.g. "Cu48 differs from CHCu48O2 by removing 1 C, 1 H and 2 O"; determined ones
    get "".

    Args:
        train: counts of the training structures.
        new: counts of other structures, with the same columns.
        elements: atomic numbers of the columns.
        tolerance: length of the undetermined part relative to the composition that counts as zero.
    """
    distinct = np.unique(train, axis=0)
    _, sizes, rows = np.linalg.svd(distinct, full_matrices=False)
    basis = rows[sizes > 1e-10 * sizes.max(initial=0.0)]
    rest = np.linalg.norm(new - (new @ basis.T) @ basis, axis=1)
    outside = rest > tolerance * np.maximum(np.linalg.norm(new, axis=1), 1.0)
    return outside, [_difference(row, distinct, elements) if out else "" for row, out in zip(new, outside, strict=True)]


def _difference(row: np.ndarray, distinct: np.ndarray, elements: Sequence[int]) -> str:
    """How a composition differs from the nearest of the distinct training compositions."""
    if len(distinct) == 0:
        return f"{_formula(row, elements)} has no training composition to compare with"
    nearest = distinct[np.abs(distinct - row).sum(axis=1).argmin()]
    added, removed = (_amounts(np.maximum(sign * (row - nearest), 0), elements) for sign in (1, -1))
    verbs = [f"{verb} {what}" for verb, what in (("adding", added), ("removing", removed)) if what]
    return f"{_formula(row, elements)} differs from {_formula(nearest, elements)} by {' and '.join(verbs)}"


def _amounts(counts: np.ndarray, elements: Sequence[int]) -> str:
    terms = [f"{count:g} {chemical_symbols[z]}" for z, count in zip(elements, counts, strict=True) if count]
    return " and ".join(filter(None, [", ".join(terms[:-1]), *terms[-1:]]))


def _formula(counts: np.ndarray, elements: Sequence[int]) -> str:
    formula = {chemical_symbols[z]: int(n) for z, n in zip(elements, counts, strict=True) if n}
    return Formula.from_dict(formula).format("hill") or "nothing"


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in numbers)


def is_isolated_atom(structure: Structure) -> bool:
    """Whether this is a single atom whose periodic images, if any, are at least `ISOLATED_HEIGHT` away."""
    if len(structure) != 1:
        return False
    atoms = structure.atoms
    if not atoms.pbc.any():
        return True
    periodic = atoms.cell.array[atoms.pbc]
    return bool(_shortest_translation(periodic) >= ISOLATED_HEIGHT)


def _shortest_translation(vectors: np.ndarray) -> float:
    """Length of the shortest combination of lattice vectors with coefficients -1, 0, 1."""
    grid = np.stack(np.meshgrid(*[[-1, 0, 1]] * len(vectors), indexing="ij"), -1).reshape(-1, len(vectors))
    lengths = np.linalg.norm(grid[grid.any(axis=1)] @ vectors, axis=1)
    return float(lengths.min())


def isolated_atom_energies(structures: Sequence[Structure]) -> dict[int, float]:
    """Energies in eV of the isolated atoms in a data set by atomic number; the lowest where an element has several."""
    energies: dict[int, float] = {}
    for structure in filter(is_isolated_atom, structures):
        if structure.energy is not None:
            z = int(structure.species[0])
            energies[z] = min(structure.energy, energies.get(z, np.inf))
    return energies
