"""Labels as peers need them: energies relative to one energy per element, and structures held out for validation.

The shift is taken in float64, for peers that compute in float32 or know no references.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mekrr.data import CompositionReference, Structure, composition_matrix, fit_composition_reference
from mekrr.errors import DataError
from mekrr.typing import Float, ndarray


def energies_of(structures: Sequence[Structure]) -> Float[ndarray, "structures"]:
    """Total energies, eV.

    Raises:
        DataError: when there is no structure, or one has no energy.
    """
    if not structures:
        raise DataError("no structures to learn from; give at least one with an energy")
    for structure in structures:
        if structure.energy is None:
            raise DataError(f"{structure.where}: no energy to learn from; drop it from the training set")
    return np.array([s.energy for s in structures], dtype=np.float64)


@dataclass(frozen=True)
class ElementShift:
    """One energy per element, fitted by least squares; the smallest ones where compositions leave them open."""

    reference: CompositionReference

    def of(self, items: Sequence[Structure | Atoms]) -> Float[ndarray, "structures"]:
        """Shifts of whole structures, eV.

        Raises:
            DataError: when one holds an element that was not fitted.
        """
        counts, _ = composition_matrix([_species(item) for item in items], self.reference.elements)
        return self.reference(counts)

    def energies(self) -> dict[str, float]:
        """EV per atom by element."""
        pairs = zip(self.reference.elements, self.reference.energies, strict=True)
        return {chemical_symbols[z]: float(energy) for z, energy in pairs}


def fit_shift(
    structures: Sequence[Structure], own_energies: Float[ndarray, "structures"] | float = 0.0
) -> ElementShift:
    """The shift that brings a network's own energies closest to the labels, per atom.

    Args:
        structures: with energies.
        own_energies: of the network, eV; 0 for one that starts from nothing.
    """
    counts, elements = composition_matrix(structures)
    # Squared errors per atom: large cells must not rule the fit.
    weights = 1.0 / counts.sum(axis=1) ** 2
    difference = energies_of(structures) - own_energies
    return ElementShift(fit_composition_reference(counts, difference, elements, weights))


def bare(atoms: Atoms) -> Atoms:
    """The geometry without labels, constraints or anything else."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def hold_out(structures: Sequence[Structure], share: float, seed: int) -> tuple[list[Structure], list[Structure]]:
    """A random share, at least one structure, apart from the others: what to fit to, and what to validate on.

    Raises:
        ValueError: when there are fewer than two.
    """
    if len(structures) < 2:
        raise ValueError(f"{len(structures)} training structures: give at least 2, or a validation set")
    order = np.random.default_rng(seed).permutation(len(structures))
    n_held = min(len(structures) - 1, max(1, round(share * len(structures))))
    return [structures[t] for t in order[n_held:]], [structures[t] for t in order[:n_held]]


def fitted_and_held(
    training: Sequence[Structure], validation: Sequence[Structure], share: float, seed: int
) -> tuple[list[Structure], list[Structure]]:
    """Training and validation structures; a share of the former is held out where there are none of the latter."""
    return (list(training), list(validation)) if validation else hold_out(training, share, seed)


def _species(item: Structure | Atoms) -> list[int]:
    return item.species.tolist() if isinstance(item, Structure) else item.numbers.tolist()
