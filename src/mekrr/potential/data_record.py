"""The part of a potential's record that says what it was fitted to."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mekrr.data import Structure
from mekrr.data.reading.electrons import charge_and_spin
from mekrr.features import structure_hash

HASH_DIGITS = 16  # of the structure hashes that are kept


@dataclass(frozen=True)
class DataRecord:
    """Hash and summary of a training set.

    Attributes:
        sha256: of structures and energies, in order; those of updates joined by "+".
        n_structures: number of them.
        n_atoms: in all.
        smallest: atoms of the smallest structure.
        largest: of the largest.
        elements: symbols.
        n_force_components: fitted to.
        n_stresses: fitted to.
        hashes: first digits of each structure's hash.
        sources: files.
        origins: of each structure, the number of its file among the sources, -1 for none, and its index there; empty in
            older records.
        charges: total charges that occur, e; empty in older records.
        spins: spin multiplicities that occur; empty in older records.
    """

    sha256: str
    n_structures: int
    n_atoms: int
    smallest: int
    largest: int
    elements: tuple[str, ...]
    n_force_components: int
    n_stresses: int
    hashes: tuple[str, ...]
    sources: tuple[str, ...]
    origins: tuple[tuple[int, int], ...] = ()
    charges: tuple[float, ...] = ()
    spins: tuple[float, ...] = ()

    @staticmethod
    def of(structures: Sequence[Structure], forces: bool = False) -> "DataRecord":
        """Of structures; `forces` says whether they were fitted to."""
        digest = hashlib.sha256()
        for structure in structures:
            digest.update(f"{structure_hash(structure.atoms)} {structure.energy!r}\n".encode())
        sizes = [len(structure) for structure in structures]
        sources = tuple(sorted({s.source for s in structures if s.source}))
        number = {source: k for k, source in enumerate(sources)}
        charges, spins = zip(*(charge_and_spin(s.atoms) for s in structures), strict=True)
        return DataRecord(
            digest.hexdigest(),
            len(structures),
            sum(sizes),
            min(sizes),
            max(sizes),
            tuple(sorted({symbol for s in structures for symbol in s.atoms.get_chemical_symbols()})),
            sum(s.forces.size for s in structures if s.forces is not None) if forces else 0,
            sum(s.stress is not None for s in structures) if forces else 0,
            tuple(structure_hash(s.atoms)[:HASH_DIGITS] for s in structures),
            sources,
            tuple((number.get(s.source, -1), s.index) for s in structures),
            _different(charges),
            _different(spins),
        )

    def origin(self, t: int) -> tuple[str, int] | None:
        """File and index of structure t; None where they are not known."""
        if t >= len(self.origins) or self.origins[t][0] < 0:
            return None
        number, index = self.origins[t]
        return self.sources[number], index

    def __add__(self, other: "DataRecord") -> "DataRecord":
        sources = tuple(sorted({*self.sources, *other.sources}))
        return DataRecord(
            f"{self.sha256}+{other.sha256}",
            self.n_structures + other.n_structures,
            self.n_atoms + other.n_atoms,
            min(self.smallest, other.smallest),
            max(self.largest, other.largest),
            tuple(sorted({*self.elements, *other.elements})),
            self.n_force_components + other.n_force_components,
            self.n_stresses + other.n_stresses,
            self.hashes + other.hashes,
            sources,
            self._renumbered(sources) + other._renumbered(sources),
            # what an older record does not say stays unsaid
            _different(self.charges + other.charges) if self.charges else (),
            _different(self.spins + other.spins) if self.spins else (),
        )

    def _renumbered(self, sources: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
        """Origins among other sources."""
        return tuple((k if k < 0 else sources.index(self.sources[k]), index) for k, index in self.origins)


def _different(values: Sequence[float]) -> tuple[float, ...]:
    """Those that are numbers, sorted, each once."""
    return tuple(sorted({value for value in values if math.isfinite(value)}))
