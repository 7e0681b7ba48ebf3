"""SchNet as it is trained: energies and forces of a batch, differentiable in the weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms

from mekrr.backbones.derivatives import pull_back, stress_of
from mekrr.backbones.schnet import SchNetNetwork
from mekrr.graph import GraphBatch
from mekrr.graph.build import assemble_batch
from mekrr.graph.neighbours import EdgeList, find_edges
from mekrr.potential import Prediction
from mekrr.typing import Float, Tensor

_PREDICTED_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Sample:
    """One structure with its edges, found once, and its labels.

    Attributes:
        atoms: geometry.
        edges: up to the cutoff.
        energy: relative to the element shifts, eV; NaN where it is to be predicted.
        forces: eV/Angstrom; NaN where there are none.
    """

    atoms: Atoms
    edges: EdgeList
    energy: float
    forces: Float[np.ndarray, "atoms 3"]


class Batch(NamedTuple):
    """Graph and labels of several samples; labels in the precision of the network."""

    graph: GraphBatch
    energies: Float[Tensor, "structures"]
    forces: Float[Tensor, "atoms 3"]


def make_sample(
    atoms: Atoms, cutoff: float, max_neighbours: int | None, energy: float = np.nan, forces: np.ndarray | None = None
) -> Sample:
    """A sample, its neighbours found.

    Raises:
        ValueError: when the structure cannot be made a graph.
    """
    edges = find_edges(atoms, cutoff)
    if max_neighbours is not None:
        edges = edges.within(atoms.positions, atoms.cell.array, cutoff, max_neighbours)
    known = np.full((len(atoms), 3), np.nan) if forces is None else np.asarray(forces)
    return Sample(atoms, edges, energy, known)


def collate(samples: Sequence[Sample], dtype: torch.dtype, device: torch.device | str) -> Batch:
    """One batch."""
    graph = assemble_batch([s.atoms for s in samples], [s.edges for s in samples]).to(device)
    energies = torch.tensor([s.energy for s in samples], dtype=dtype, device=device)
    forces = torch.as_tensor(np.concatenate([s.forces for s in samples])).to(device, dtype)
    return Batch(graph, energies, forces)


class Potential(torch.nn.Module):
    """A SchNet whose atomic contributions times `scale` are eV.

    Args:
        network: the layers.
        scale: eV; brings the contributions to the order of one.
    """

    def __init__(self, network: SchNetNetwork, scale: float) -> None:
        super().__init__()
        self.network = network
        self.scale = scale

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.network.lin2.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.lin2.weight.device

    def atomic_energies(self, graph: GraphBatch, vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, "atoms"]:
        """eV, relative to the element shifts."""
        return self.network.read_out(self.network.features(graph, vectors)[-1]) * self.scale

    def forward(
        self, graph: GraphBatch, training: bool = False
    ) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "edges 3"]]:
        """Atomic energies in eV and dE/d(edge vector) in eV/Angstrom, differentiable in the weights when training."""
        vectors = graph.edge_vectors().to(self.dtype).requires_grad_(True)
        atomic = self.atomic_energies(graph, vectors)
        (gradient,) = torch.autograd.grad(atomic.sum(), vectors, create_graph=training)
        return atomic, gradient


def summed(graph: GraphBatch, atomic: Float[Tensor, "atoms"]) -> Float[Tensor, "structures"]:
    """Energies of structures in the precision of their atoms, differentiable."""
    return atomic.new_zeros(graph.n_structures).index_add(0, graph.structure, atomic)


def forces_of(graph: GraphBatch, gradient: Float[Tensor, "edges 3"]) -> Float[Tensor, "atoms 3"]:
    """Forces from dE/d(edge vector), as in `pull_back` but in the precision of the network and differentiable."""
    zeros = gradient.new_zeros(len(graph.species), 3)
    return zeros.index_add(0, graph.centre, gradient).index_add(0, graph.neighbour, gradient, alpha=-1)


def predict(potential: Potential, samples: Sequence[Sample]) -> Iterator[Prediction]:
    """Predictions relative to the element shifts."""
    for start in range(0, len(samples), _PREDICTED_AT_ONCE):
        part = samples[start : start + _PREDICTED_AT_ONCE]
        graph = collate(part, potential.dtype, potential.device).graph
        atomic, gradient = potential(graph)
        energies = graph.sum_atoms(atomic.detach())
        pulled = pull_back(graph, gradient.detach())
        stresses = stress_of(graph, pulled.strain_gradient)
        for sample, energy, forces, stress in zip(
            part, energies, pulled.forces.split(graph.n_atoms.tolist()), stresses, strict=True
        ):
            has_cell = sample.atoms.cell.rank == 3
            yield Prediction(float(energy), forces.cpu().numpy(), stress.cpu().numpy() if has_cell else None)
