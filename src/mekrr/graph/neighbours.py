"""Neighbour lists of one structure, in a fixed order so that equal input gives equal edges."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

from mekrr.data.checking.distances import unsearchable
from mekrr.typing import Float, Int, ndarray

# The list is asked for slightly more than the cutoff and trimmed here, by the very edge vectors that are used later.
_CUTOFF_MARGIN = 1e-8
_COINCIDENT = 1e-6


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Directed edges of one structure, sorted by centre, then neighbour, then shift.

    Attributes:
        centre: atom index at which an edge starts.
        neighbour: atom index at which it ends.
        shifts: integer lattice translations of the neighbour.
    """

    centre: Int[ndarray, "edges"]
    neighbour: Int[ndarray, "edges"]
    shifts: Int[ndarray, "edges 3"]

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, chosen: ndarray) -> "EdgeList":
        """The chosen edges, by mask or index."""
        return EdgeList(self.centre[chosen], self.neighbour[chosen], self.shifts[chosen])

    def lengths(self, positions: Float[ndarray, "atoms 3"], cell: Float[ndarray, "3 3"]) -> Float[ndarray, "edges"]:
        """Edge lengths in Angstrom at these positions."""
        vectors = positions[self.neighbour] - positions[self.centre] + self.shifts @ cell
        return np.linalg.norm(vectors, axis=1)

    def within(
        self,
        positions: Float[ndarray, "atoms 3"],
        cell: Float[ndarray, "3 3"],
        cutoff: float,
        max_neighbours: int | None = None,
    ) -> "EdgeList":
        """The edges no longer than `cutoff`, at most `max_neighbours` an atom.

        Args:
            positions: Angstrom.
            cell: rows are lattice vectors, Angstrom.
            cutoff: Angstrom.
            max_neighbours: keep the nearest so many of each centre, None for all.

        Raises:
            ValueError: if two atoms coincide.
        """
        lengths = self.lengths(positions, cell)
        _refuse_coincident(self, lengths)
        kept = lengths <= cutoff
        edges, lengths = self[kept], lengths[kept]
        return edges if max_neighbours is None else edges[_nearest(edges.centre, lengths, max_neighbours)]


def find_edges(atoms: Atoms, cutoff: float) -> EdgeList:
    """All edges of `atoms` up to `cutoff`, both directions of every pair, periodic images included.

    Args:
        atoms: any mixture of periodic directions; positions may lie outside the cell.
        cutoff: Angstrom.

    Raises:
        ValueError: if there are no atoms, a position or lattice vector is not finite, a periodic direction has no
            lattice vector, the structure is absurdly large or dense, or two atoms coincide.
    """
    _check(atoms, cutoff)
    cell = atoms.cell.array
    # vesin wants three independent lattice vectors; those of open directions only serve its cell list.
    full_cell = cell if np.linalg.matrix_rank(cell) == 3 else complete_cell(cell)
    search = NeighborList(cutoff=cutoff + _CUTOFF_MARGIN, full_list=True)
    centre, neighbour, shifts = search.compute(atoms.positions, full_cell, atoms.pbc, "ijS")
    edges = EdgeList(centre.astype(np.int64), neighbour.astype(np.int64), shifts.astype(np.int64))
    order = np.lexsort((*edges.shifts.T[::-1], edges.neighbour, edges.centre))
    return edges[order].within(atoms.positions, cell, cutoff)


def _check(atoms: Atoms, cutoff: float) -> None:
    if len(atoms) == 0:
        raise ValueError("a structure needs at least one atom; received one without atoms, leave it out")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise ValueError(
            f"positions and lattice vectors must be finite; {atoms.get_chemical_formula()} holds NaN or infinity, "
            "repair or drop that structure"
        )
    missing = atoms.pbc & (np.linalg.norm(atoms.cell.array, axis=1) == 0)
    if missing.any():
        raise ValueError(
            f"a periodic direction needs a lattice vector; received pbc={atoms.pbc.tolist()} with zero vectors along "
            f"{np.flatnonzero(missing).tolist()}, set atoms.cell or switch pbc off there"
        )
    if fault := unsearchable(atoms, cutoff):
        raise ValueError(f"{atoms.get_chemical_formula()}: {fault}; correct positions, cell or pbc, or drop it")


def _refuse_coincident(edges: EdgeList, lengths: Float[ndarray, "edges"]) -> None:
    coincident = lengths < _COINCIDENT
    if coincident.any():
        first = int(np.argmax(coincident))
        raise ValueError(
            f"atoms must not coincide; atoms {edges.centre[first]} and {edges.neighbour[first]} are "
            f"{lengths[first]:.1e} Angstrom apart, repair or drop that structure"
        )


def _nearest(
    centre: Int[ndarray, "edges"], lengths: Float[ndarray, "edges"], max_neighbours: int
) -> Int[ndarray, "kept"]:
    """Indices, in order, of the nearest edges of each centre; of equal lengths the earlier edge is kept."""
    by_length = np.lexsort((lengths, centre))
    first_edge = np.searchsorted(centre, centre[by_length])
    rank = np.arange(len(centre)) - first_edge
    return np.sort(by_length[rank < max_neighbours])
