"""From ase.Atoms to a GraphBatch."""

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from mekrr.data.reading.electrons import charge_and_spin
from mekrr.graph.batch import GraphBatch
from mekrr.graph.neighbours import EdgeList, find_edges


def build_batch(atoms_list: Sequence[Atoms], cutoff: float, max_neighbours: int | None = None) -> GraphBatch:
    """One graph of all structures, in float64 on the CPU.

    Sizes, compositions and periodicities may be mixed. With a neighbour cap the nearest `max_neighbours` of every
    atom are kept, as the Open Catalyst Project does; where several neighbours tie for the last place the one with
    the lower index, then the lower shift, wins, so that features are then not invariant under permutation.

    Args:
        atoms_list: at least one structure.
        cutoff: Angstrom.
        max_neighbours: keep only so many nearest neighbours an atom, None for all.

    Raises:
        ValueError: if there is no structure, the cutoff or the cap is not positive, or a structure is unusable (its
            position in the list is named).
    """
    if len(atoms_list) == 0:
        raise ValueError("a batch needs at least one structure; received none")
    check_limits(cutoff, max_neighbours)
    edges = [_edges(index, atoms, cutoff, max_neighbours) for index, atoms in enumerate(atoms_list)]
    return assemble_batch(atoms_list, edges)


def check_limits(cutoff: float, max_neighbours: int | None) -> None:
    """Raise ValueError unless `cutoff` and `max_neighbours` are positive."""
    if not cutoff > 0:
        raise ValueError(f"the cutoff must be positive, in Angstrom; received {cutoff}")
    if max_neighbours is not None and max_neighbours < 1:
        raise ValueError(f"max_neighbours must be at least 1, or None for all; received {max_neighbours}")


def assemble_batch(atoms_list: Sequence[Atoms], edges: Sequence[EdgeList]) -> GraphBatch:
    """Concatenate structures and their edges, renumbering the atoms."""
    n_atoms = np.array([len(atoms) for atoms in atoms_list])
    offsets = np.cumsum(n_atoms) - n_atoms
    charges, spins = torch.tensor([charge_and_spin(atoms) for atoms in atoms_list], dtype=torch.float64).unbind(1)
    return GraphBatch(
        positions=torch.from_numpy(np.concatenate([atoms.positions for atoms in atoms_list])),
        cells=torch.from_numpy(np.stack([atoms.cell.array for atoms in atoms_list])),
        periodic=torch.tensor([bool(atoms.pbc.all()) for atoms in atoms_list]),
        species=torch.from_numpy(np.concatenate([atoms.numbers for atoms in atoms_list]).astype(np.int64)),
        structure=torch.from_numpy(np.repeat(np.arange(len(atoms_list)), n_atoms)),
        n_atoms=torch.from_numpy(n_atoms),
        centre=torch.from_numpy(np.concatenate([e.centre + o for e, o in zip(edges, offsets, strict=True)])),
        neighbour=torch.from_numpy(np.concatenate([e.neighbour + o for e, o in zip(edges, offsets, strict=True)])),
        shifts=torch.from_numpy(np.concatenate([e.shifts for e in edges]).astype(np.float64)),
        charge=charges,
        spin=spins,
    )


def _edges(index: int, atoms: Atoms, cutoff: float, max_neighbours: int | None) -> EdgeList:
    try:
        edges = find_edges(atoms, cutoff)
    except ValueError as error:
        raise ValueError(f"structure {index} of the batch: {error}") from error
    if max_neighbours is None:
        return edges
    return edges.within(atoms.positions, atoms.cell.array, cutoff, max_neighbours)
