"""Derivatives of what a backbone gives: forces, stress and directional derivatives, made in one place.

A backbone is a function of edge vectors. Reverse mode gives dE/d(edge vector); everything geometric follows from it by
sums over edges, without automatic differentiation through positions or cells.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mekrr.backbones.base import Backbone
from mekrr.backbones.process_state import deterministic, forward_product
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor

Network = Callable[[Tensor], tuple[Tensor, ...]]
Values = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class PulledBack(NamedTuple):
    """What dE/d(edge vector) becomes.

    Attributes:
        forces: eV/Angstrom.
        strain_gradient: dE/d(strain) in eV, symmetric; stress is this over the volume.
    """

    forces: Float[Tensor, "atoms 3"]
    strain_gradient: Float[Tensor, "structures 3 3"]


@dataclass(frozen=True, eq=False)
class EnergyForcesStress:
    """A backbone's own predictions, in float64.

    Attributes:
        energies: eV.
        atomic_energies: eV.
        forces: eV/Angstrom.
        stress: eV/Angstrom^3 in ASE's sign; NaN for structures that do not repeat in all three directions.
    """

    energies: Float[Tensor, "structures"]
    atomic_energies: Float[Tensor, "atoms"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "structures 3 3"]


def energy_forces_stress(backbone: Backbone, graph: GraphBatch) -> EnergyForcesStress:
    """The backbone's own energies, forces and stress, from one forward and one reverse pass.

    Raises:
        ValueError: if the backbone predicts no energy, or a species is unknown.
    """
    edge_vectors = graph.edge_vectors().requires_grad_(True)
    atomic_energies = backbone.forward(graph, edge_vectors, backbone.layers[-1:]).atomic_energies
    if atomic_energies is None:
        raise ValueError(f"{backbone.name} predicts no energy; use it for features only (prior none or composition)")
    pulled = pull_back(graph, edge_gradient([atomic_energies], [torch.ones_like(atomic_energies)], edge_vectors))
    atomic_energies = atomic_energies.detach().to(graph.positions)
    return EnergyForcesStress(
        energies=graph.sum_atoms(atomic_energies),
        atomic_energies=atomic_energies,
        forces=pulled.forces,
        stress=stress_of(graph, pulled.strain_gradient),
    )


def edge_gradient(
    outputs: Sequence[Tensor], seeds: Sequence[Tensor], edge_vectors: Float[Tensor, "edges 3"], keep_graph: bool = False
) -> Float[Tensor, "edges 3"]:
    """Derivative of sum(seed . output) with respect to the edge vectors, the same bits every time on a CPU.

    The gather of neighbours has a scatter as its derivative, which several threads add up in any order unless torch is
    told to be deterministic; the setting is restored afterwards.
    """
    scope = deterministic() if edge_vectors.device.type == "cpu" else nullcontext()
    with scope:
        return torch.autograd.grad(list(outputs), edge_vectors, list(seeds), retain_graph=keep_graph)[0]


def pull_back(graph: GraphBatch, edge_gradient: Float[Tensor, "edges 3"]) -> PulledBack:
    """Forces and strain gradient of an energy whose gradient in the edge vectors is given.

    With v = r_j + S A - r_i and v -> v + v eps: F_i = sum_(edges from i) g - sum_(edges to i) g, and
    dE/d(eps) = sum v^T g, symmetrised because strain is.

    Args:
        graph: where the edge vectors came from.
        edge_gradient: dE/d(edge vector) in eV/Angstrom, any float dtype; sums are done in float64.
    """
    gradient = edge_gradient.to(graph.positions)
    forces = torch.zeros_like(graph.positions)
    forces.index_add_(0, graph.centre, gradient)
    forces.index_add_(0, graph.neighbour, -gradient)
    products = torch.einsum("ea,eb->eab", graph.edge_vectors(), gradient)
    strain_gradient = torch.zeros_like(graph.cells).index_add_(0, graph.structure[graph.centre], products)
    return PulledBack(forces, (strain_gradient + strain_gradient.mT) / 2)


def stress_of(graph: GraphBatch, strain_gradient: Float[Tensor, "structures 3 3"]) -> Float[Tensor, "structures 3 3"]:
    """Stress in eV/Angstrom^3, ASE's sign; NaN for structures that do not repeat in all three directions."""
    volumes = graph.volumes
    return strain_gradient / torch.where(volumes > 0, volumes, torch.nan)[:, None, None]


def edge_directions(
    graph: GraphBatch,
    directions: Float[Tensor, "probes atoms 3"],
    strain_directions: Float[Tensor, "probes structures 3 3"] | None = None,
) -> Float[Tensor, "probes edges 3"]:
    """How the edge vectors move when the atoms move along `directions` and the cells along `strain_directions`.

    Exact, not a finite difference: edge vectors are linear in both.
    """
    moves = directions[:, graph.neighbour] - directions[:, graph.centre]
    if strain_directions is not None:
        strains = strain_directions[:, graph.structure[graph.centre]]
        moves = moves + torch.einsum("ej,pejk->pek", graph.edge_vectors(), strains)
    return moves


class Linearised(NamedTuple):
    """Features and energies at a geometry, and how they change along directions.

    Attributes:
        features: as `Backbone.forward` gives them.
        atomic_energies: eV, None when the backbone has none.
        feature_derivatives: per Angstrom of the direction.
        energy_derivatives: of the atomic energies, eV/Angstrom of the direction; None when the backbone has none.
    """

    features: Float[Tensor, "atoms features"]
    atomic_energies: Float[Tensor, "atoms"] | None
    feature_derivatives: Float[Tensor, "probes atoms features"]
    energy_derivatives: Float[Tensor, "probes atoms"] | None


def directional_derivatives(
    backbone: Backbone,
    graph: GraphBatch,
    directions: Float[Tensor, "probes atoms 3"],
    strain_directions: Float[Tensor, "probes structures 3 3"] | None = None,
    layers: Sequence[str] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, "probes atoms features"]:
    """Derivatives of the features along directions, one forward-mode product each; see `linearise`."""
    return linearise(backbone, graph, directions, strain_directions, layers, chunk, energies=False).feature_derivatives


def linearise(
    backbone: Backbone,
    graph: GraphBatch,
    directions: Float[Tensor, "probes atoms 3"],
    strain_directions: Float[Tensor, "probes structures 3 3"] | None = None,
    layers: Sequence[str] | None = None,
    chunk: int | None = None,
    energies: bool = True,
) -> Linearised:
    """Features, energies and their derivatives along directions.

    Forward mode with the directions batched, or two reverse passes where the backbone does not allow forward mode.

    Args:
        backbone: the network.
        graph: one batch; a direction moves the atoms of all its structures at once.
        directions: at least one, dimensionless.
        strain_directions: symmetric strains that go with them, None for fixed cells.
        layers: as in `Backbone.forward`, None for all.
        chunk: directions done at once, None for all; bounds the memory.
        energies: False leaves them out, and the layers that only they need.
    """
    layers = backbone.layers if layers is None else layers
    edge_vectors = graph.edge_vectors()
    moves = edge_directions(graph, directions.to(edge_vectors), strain_directions)

    def network(vectors: Tensor) -> tuple[Tensor, ...]:
        output = backbone.forward(graph, vectors, layers, energies)
        if not energies or output.atomic_energies is None:
            return (output.features,)
        return output.features, output.atomic_energies

    products = _forward_products if backbone.forward_mode else _double_reverse_products
    values, tangents = products(network, edge_vectors, moves, chunk or len(moves))
    if len(values) == 1:
        return Linearised(values[0], None, tangents[0], None)
    return Linearised(values[0], values[1], tangents[0], tangents[1])


def _forward_products(network: Network, point: Tensor, moves: Tensor, chunk: int) -> Values:
    """Values and products J move by forward mode; a chunk shares one evaluation of the values."""

    def product(move: Tensor) -> Values:
        values, tangents, *_ = forward_product(network, (point,), (move,))
        return values, tangents

    with torch.no_grad():
        # The values do not depend on the direction, so they come back once, not once a direction.
        batched = torch.func.vmap(product, out_dims=(None, 0))  # type: ignore[arg-type]
        parts = [batched(part) for part in moves.split(chunk)]
    return parts[0][0], tuple(torch.cat(tangents) for tangents in zip(*(part[1] for part in parts), strict=True))


def _double_reverse_products(network: Network, point: Tensor, moves: Tensor, chunk: int) -> Values:
    """The same by reverse mode twice: J move is the gradient, in u, of (J^T u) . move, which is linear in u."""
    point = point.detach().requires_grad_(True)
    values = network(point)
    dummies = tuple(torch.zeros_like(value).requires_grad_(True) for value in values)
    (transposed,) = torch.autograd.grad(values, point, dummies, create_graph=True)
    products = [torch.autograd.grad(transposed, dummies, move, retain_graph=True) for move in moves]
    return tuple(value.detach() for value in values), tuple(map(torch.stack, zip(*products, strict=True)))
