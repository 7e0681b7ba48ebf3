"""A neighbour list that survives small moves, for molecular dynamics and relaxations."""

import numpy as np
from ase import Atoms

from mekrr.graph.batch import GraphBatch
from mekrr.graph.build import assemble_batch, check_limits
from mekrr.graph.neighbours import EdgeList, find_edges


class SkinnedGraph:
    """Graphs of one structure as it moves; the neighbour search is repeated only when it must be.

    Edges up to cutoff + skin are found once (Verlet, Phys. Rev. 159, 98 (1967)); no pair can come within the cutoff
    unnoticed until an atom has moved by half the skin. Every graph is trimmed to the cutoff, so that it equals a
    freshly built one.

    Args:
        cutoff: Angstrom.
        skin: Angstrom; 0 searches at every step.
        max_neighbours: keep only so many nearest neighbours an atom, None for all.

    Attributes:
        n_searches: neighbour searches done so far.
    """

    def __init__(self, cutoff: float, skin: float = 0.5, max_neighbours: int | None = None) -> None:
        check_limits(cutoff, max_neighbours)
        if skin < 0:
            raise ValueError(f"the skin must not be negative, in Angstrom; received {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.max_neighbours = max_neighbours
        self.n_searches = 0
        self._reference: Atoms | None = None
        self._edges: EdgeList | None = None

    def batch(self, atoms: Atoms) -> GraphBatch:
        """A batch of one: the graph of `atoms` as they are now.

        Raises:
            ValueError: if the structure is unusable, see `find_edges`.
        """
        return assemble_batch([atoms], [self.edges(atoms)])

    def edges(self, atoms: Atoms) -> EdgeList:
        """The edges of `atoms` as they are now, for a batch with others.

        Raises:
            ValueError: if the structure is unusable, see `find_edges`.
        """
        if self._edges is None or not self._still_valid(atoms):
            self._edges = find_edges(atoms, self.cutoff + self.skin)
            self._reference = atoms.copy()
            self.n_searches += 1
        return self._edges.within(atoms.positions, atoms.cell.array, self.cutoff, self.max_neighbours)

    def _still_valid(self, atoms: Atoms) -> bool:
        reference = self._reference
        if reference is None or not np.array_equal(atoms.numbers, reference.numbers):
            return False
        if not (np.array_equal(atoms.cell.array, reference.cell.array) and np.array_equal(atoms.pbc, reference.pbc)):
            return False
        moved = np.linalg.norm(atoms.positions - reference.positions, axis=1).max()
        # A NaN position compares false and leads to a search, which names the fault.
        return bool(2 * moved < self.skin)
