"""A batch of structures as one disconnected graph whose only geometric input is its edge vectors."""

from dataclasses import dataclass

import torch

from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """Atoms and directed edges of several structures, concatenated.

    An edge runs from `centre` to `neighbour`; its vector is r_neighbour + shift @ cell - r_centre. Both directions
    of every pair are present (unless a backbone caps the number of neighbours). Edges are sorted by centre.
    Geometry is float64: the difference of two coordinates is taken before any rounding to float32.

    Attributes:
        positions: Angstrom.
        cells: rows are lattice vectors, Angstrom; zero rows for directions without a lattice vector.
        species: atomic numbers.
        structure: for each atom, the index of its structure in the batch.
        n_atoms: atoms of each structure.
        centre: atom index at which an edge starts.
        neighbour: atom index at which it ends.
        shifts: integer lattice translations of the neighbour, as float64.
    """

    positions: Float[Tensor, "atoms 3"]
    cells: Float[Tensor, "structures 3 3"]
    species: Int[Tensor, "atoms"]
    structure: Int[Tensor, "atoms"]
    n_atoms: Int[Tensor, "structures"]
    centre: Int[Tensor, "edges"]
    neighbour: Int[Tensor, "edges"]
    shifts: Float[Tensor, "edges 3"]

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.n_atoms)

    @property
    def volumes(self) -> Float[Tensor, "structures"]:
        """Angstrom^3; zero where lattice vectors are missing."""
        return torch.linalg.det(self.cells).abs()

    def sum_atoms(self, values: Float[Tensor, "atoms"]) -> Float[Tensor, "structures"]:
        """Sum over the atoms of each structure, in float64."""
        return self.positions.new_zeros(self.n_structures).index_add(0, self.structure, values.to(self.positions))

    def edge_vectors(
        self,
        positions: Float[Tensor, "atoms 3"] | None = None,
        strain: Float[Tensor, "structures 3 3"] | None = None,
    ) -> Float[Tensor, "edges 3"]:
        """Edge vectors in Angstrom, differentiable in positions and strain.

        Args:
            positions: used instead of the stored ones.
            strain: symmetric strain of each structure; r -> r + r @ strain for positions and lattice vectors.
        """
        positions = self.positions if positions is None else positions
        edge_structure = self.structure[self.centre]
        translations = torch.einsum("ej,ejk->ek", self.shifts, self.cells[edge_structure])
        vectors = positions[self.neighbour] - positions[self.centre] + translations
        if strain is not None:
            vectors = vectors + torch.einsum("ej,ejk->ek", vectors, strain[edge_structure])
        return vectors

    def to(self, device: torch.device | str) -> "GraphBatch":
        """The same batch on another device."""
        return GraphBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})
