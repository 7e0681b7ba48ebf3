"""A batch of structures as one disconnected graph whose only geometric input is its edge vectors."""

from dataclasses import dataclass
from typing import Any

import torch

from mekrr.data.reading.electrons import NEUTRAL, SINGLET
from mekrr.typing import Bool, Float, Int, Shaped, Tensor


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """Atoms and directed edges of several structures, concatenated.

    An edge runs from `centre` to `neighbour`; its vector is r_neighbour + shift @ cell - r_centre. Both directions
    of every pair are present (unless a backbone caps the number of neighbours). Edges are sorted by centre.
    Geometry is float64: the difference of two coordinates is taken before any rounding to float32.

    Attributes:
        positions: Angstrom.
        cells: rows are lattice vectors, Angstrom; zero rows for directions without a lattice vector.
        periodic: whether a structure repeats in all three directions.
        species: atomic numbers.
        structure: for each atom, the index of its structure in the batch.
        n_atoms: atoms of each structure.
        centre: atom index at which an edge starts.
        neighbour: atom index at which it ends.
        shifts: integer lattice translations of the neighbour, as float64.
        vectors: edge vectors that were given instead of positions, Angstrom; None where they follow from these.
        order: of given edges: row e here is row order[e] there; None where edges were found here.
        charge: total charge of each structure, e; NaN where a source holds something else than a number.
        spin: multiplicity 2S + 1 of each structure, likewise.
    """

    positions: Float[Tensor, "atoms 3"]
    cells: Float[Tensor, "structures 3 3"]
    periodic: Bool[Tensor, "structures"]
    species: Int[Tensor, "atoms"]
    structure: Int[Tensor, "atoms"]
    n_atoms: Int[Tensor, "structures"]
    centre: Int[Tensor, "edges"]
    neighbour: Int[Tensor, "edges"]
    shifts: Float[Tensor, "edges 3"]
    vectors: Float[Tensor, "edges 3"] | None = None
    order: Int[Tensor, "edges"] | None = None
    charge: Float[Tensor, "structures"] | None = None
    spin: Float[Tensor, "structures"] | None = None

    @staticmethod
    def from_tensors(
        species: Tensor,
        centre: Tensor,
        neighbour: Tensor,
        vectors: Tensor,
        n_atoms: Tensor | None = None,
        cells: Tensor | None = None,
        charge: Tensor | None = None,
        spin: Tensor | None = None,
    ) -> "GraphBatch":
        """A graph that an engine has made: edges in any order, both directions of every pair, with their vectors.

        Args:
            species: atomic numbers, (atoms,).
            centre: atom index at which an edge starts, (edges,).
            neighbour: atom index at which it ends, (edges,).
            vectors: (edges, 3); r_neighbour - r_centre, images included, Angstrom.
            n_atoms: of each structure; None for a single one.
            cells: lattice vectors in rows, Angstrom, along which a structure repeats; None where no stress is wanted.
            charge: total charge of each structure, e; None for 0.
            spin: multiplicity 2S + 1 of each structure; None for 1.

        Raises:
            ValueError: when the tensors do not fit together, or an edge leaves its structure.
        """
        n_atoms = species.new_tensor([len(species)]) if n_atoms is None else n_atoms
        _check_shapes(species, centre, neighbour, vectors, n_atoms, cells)
        _check_electrons(len(n_atoms), charge, spin)
        structure = torch.repeat_interleave(torch.arange(len(n_atoms), device=species.device), n_atoms)
        if bool((structure[centre] != structure[neighbour]).any()):
            raise ValueError("an edge joins two structures; number the atoms of a batch one structure after another")
        order = centre.argsort(stable=True)
        vectors = vectors.double()
        return GraphBatch(
            positions=vectors.new_zeros(len(species), 3),
            cells=vectors.new_zeros(len(n_atoms), 3, 3) if cells is None else cells.double(),
            periodic=torch.ones_like(n_atoms, dtype=torch.bool),
            species=species,
            structure=structure,
            n_atoms=n_atoms,
            centre=centre[order],
            neighbour=neighbour[order],
            shifts=torch.zeros_like(vectors),
            vectors=vectors[order],
            order=order,
            charge=vectors.new_full(n_atoms.shape, NEUTRAL) if charge is None else charge.double(),
            spin=vectors.new_full(n_atoms.shape, SINGLET) if spin is None else spin.double(),
        )

    def repeated(self, copies: int) -> "GraphBatch":
        """So many copies of the batch, one after another; of given edges, the order is forgotten."""
        if copies == 1:
            return self
        n, copy = len(self.species), torch.arange(copies, device=self.species.device)
        found: dict[str, Any] = {
            name: None if t is None else t.repeat(copies, *[1] * (t.dim() - 1)) for name, t in vars(self).items()
        }
        for name, size in zip(("structure", "centre", "neighbour"), (self.n_structures, n, n), strict=True):
            found[name] += size * copy.repeat_interleave(len(found[name]) // copies)
        return GraphBatch(**found | {"order": None})

    def in_given_order(self, values: Shaped[Tensor, "edges *rest"]) -> Shaped[Tensor, "edges *rest"]:
        """Values of edges in the order in which the edges were given."""
        if self.order is None:
            return values
        found = torch.empty_like(values)
        found[self.order.to(values.device)] = values
        return found

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.n_atoms)

    @property
    def volumes(self) -> Float[Tensor, "structures"]:
        """Angstrom^3; zero for structures that do not repeat in all three directions."""
        return torch.linalg.det(self.cells).abs() * self.periodic

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
        edge_structure = self.structure[self.centre]
        if self.vectors is not None:
            if positions is not None:
                raise ValueError("this graph was given with its edge vectors; it has no positions to replace")
            vectors = self.vectors
        else:
            positions = self.positions if positions is None else positions
            translations = torch.einsum("ej,ejk->ek", self.shifts, self.cells[edge_structure])
            vectors = positions[self.neighbour] - positions[self.centre] + translations
        if strain is not None:
            vectors = vectors + torch.einsum("ej,ejk->ek", vectors, strain[edge_structure])
        return vectors

    def check_paired(self) -> None:
        """Refuse given edges that do not come in pairs, one in each direction.

        Sums in which both edges of a pair cancel, with random weights of the atoms, are zero just where they do.

        Raises:
            ValueError: when an edge lacks the one turned round.
        """
        if self.vectors is None:
            return  # those built here do
        r = torch.rand(len(self.species), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        i, j = r.to(self.vectors.device)[self.centre], r.to(self.vectors.device)[self.neighbour]
        terms = torch.cat(
            [(i * j)[:, None] * self.vectors, (i - j)[:, None] * self.vectors.norm(dim=1, keepdim=True)], 1
        )
        if bool((terms.sum(0).abs() > 1e-5 * terms.abs().sum(0)).any()):
            raise ValueError(
                "gradients in the weights need edges in pairs, one in each direction; give both, for all atoms of the "
                "structure"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in vars(self).values() if tensor is not None)

    def to(self, device: torch.device | str) -> "GraphBatch":
        """The same batch on another device."""
        moved: dict[str, Any] = {name: None if t is None else t.to(device) for name, t in vars(self).items()}
        return GraphBatch(**moved)


def _check_electrons(n_structures: int, charge: Tensor | None, spin: Tensor | None) -> None:
    for name, values in (("charge", charge), ("spin", spin)):
        if values is not None and values.shape != (n_structures,):
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}; {n_structures} numbers, one a structure, are wanted"
            )


def _check_shapes(
    species: Tensor, centre: Tensor, neighbour: Tensor, vectors: Tensor, n_atoms: Tensor, cells: Tensor | None
) -> None:
    """Raise ValueError unless the tensors of a given graph fit together."""
    if int(n_atoms.sum()) != len(species):
        raise ValueError(f"n_atoms adds up to {int(n_atoms.sum())}, but there are {len(species)} species")
    if not len(centre) == len(neighbour) == len(vectors):
        raise ValueError(f"{len(centre)} centres, {len(neighbour)} neighbours and {len(vectors)} vectors do not match")
    if vectors.shape[1:] != (3,):
        raise ValueError(f"edge vectors have shape (edges, 3); received {tuple(vectors.shape)}")
    if cells is not None and cells.shape != (len(n_atoms), 3, 3):
        raise ValueError(f"cells have shape ({len(n_atoms)}, 3, 3), one a structure; received {tuple(cells.shape)}")
    ends = torch.cat([centre, neighbour])
    wrong = ends[(ends < 0) | (ends >= len(species))]
    if len(wrong):
        raise ValueError(f"an edge ends at atom {int(wrong[0])}; atoms are numbered from 0 to {len(species) - 1}")
