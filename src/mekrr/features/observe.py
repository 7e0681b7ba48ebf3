"""One pass over the network: structures or a graph in; features, derivatives and products with vectors out.

Everything that mekrr wants of a backbone goes through here: features alone, features with the derivatives along some
directions (J v), and the gradient of a function of features and energies with respect to the edge vectors (u' J), from
which forces and strain gradient follow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from ase import Atoms

from mekrr.backbones import Backbone, BackboneOutput, WeightChange
from mekrr.backbones.derivatives import PulledBack, directional_derivatives, edge_gradient, pull_back
from mekrr.features.environments import Environments
from mekrr.graph import GraphBatch, build_batch
from mekrr.typing import Float, Tensor

BATCH_ATOMS = 256


@dataclass(frozen=True, eq=False)
class Pass:
    """A graph as the network sees it.

    Attributes:
        backbone: the network.
        graph: on its device.
        layers: whose features were asked for.
        vectors: edge vectors, which gradients are taken with respect to.
        output: features and atomic energies, attached to `vectors` where gradients were asked for.
        tangent: the derivative of the atomic energies along a change of the weights, eV, attached likewise; None
            without one.
    """

    backbone: Backbone
    graph: GraphBatch
    layers: tuple[str, ...]
    vectors: Float[Tensor, "edges 3"]
    output: BackboneOutput
    tangent: Float[Tensor, "atoms"] | None = None

    @property
    def environments(self) -> Environments:
        """Raw features, detached, in the backbone's dtype and on its device."""
        return Environments(self.output.features.detach(), self.graph.species, self.graph.n_atoms)

    @property
    def atomic_energies(self) -> Float[Tensor, "atoms"] | None:
        """The backbone's own, eV, float64, detached; None when it has none or they were not asked for."""
        own = self.output.atomic_energies
        return None if own is None else own.detach().double()

    def edge_gradient(
        self, slopes: Float[Tensor, "atoms features"] | None = None, factor: float = 0.0, keep: bool = False
    ) -> Float[Tensor, "edges 3"]:
        """Derivative of (slopes . features + factor times the backbone's energy + tangent) in the edge vectors.

        Args:
            slopes: of each raw feature; None for none.
            factor: of the backbone's energy.
            keep: whether another gradient of the same pass will be asked for.
        """
        outputs, seeds = [], []
        if slopes is not None:
            outputs.append(self.output.features)
            seeds.append(slopes.to(self.output.features))
        own = self.output.atomic_energies
        if factor and own is not None:
            outputs.append(own)
            seeds.append(torch.full_like(own, factor))
        if self.tangent is not None:
            outputs.append(self.tangent)
            seeds.append(torch.ones_like(self.tangent))
        if not outputs:
            return torch.zeros_like(self.vectors)
        return edge_gradient(outputs, seeds, self.vectors, keep)

    def backbone_gradient(self, keep: bool = False) -> Float[Tensor, "edges 3"]:
        """Derivative of the backbone's own energy in the edge vectors."""
        own = self.output.atomic_energies
        assert own is not None
        return edge_gradient([own], [torch.ones_like(own)], self.vectors, keep)

    def pull_back(self, gradient: Float[Tensor, "edges 3"]) -> PulledBack:
        """Forces and strain gradient of what the edge gradient is of."""
        return pull_back(self.graph, gradient)

    def along(
        self,
        directions: Float[Tensor, "probes atoms 3"],
        strains: Float[Tensor, "probes structures 3 3"] | None = None,
        chunk: int | None = None,
    ) -> Float[Tensor, "probes atoms features"]:
        """Derivatives of the features along moves of the atoms and strains of the cells."""
        return directional_derivatives(self.backbone, self.graph, directions, strains, self.layers, chunk)


def look(
    graph: GraphBatch,
    backbone: Backbone,
    layers: Sequence[str],
    energies: bool = True,
    gradients: bool = False,
    change: WeightChange | None = None,
) -> Pass:
    """One forward pass.

    Args:
        graph: on any device.
        backbone: the network.
        layers: whose features are wanted.
        energies: whether the backbone's own energies are.
        gradients: whether gradients will be asked for.
        change: of the weights, along which the energies' derivative is wanted as well.
    """
    graph = graph.to(backbone.device)
    tangent = None
    with torch.set_grad_enabled(gradients):
        vectors = graph.edge_vectors().detach().requires_grad_(gradients)
        if change is None:
            output = backbone.forward(graph, vectors, layers, energies)
        else:
            output, tangent = change.tangent(backbone, graph, vectors, layers)
    return Pass(backbone, graph, tuple(layers), vectors, output, tangent)


def observe(
    structures: Sequence[Atoms],
    backbone: Backbone,
    layers: Sequence[str],
    energies: bool = True,
    gradients: bool = False,
    batch_atoms: int | None = None,
    change: WeightChange | None = None,
) -> Iterator[tuple[list[int], Pass]]:
    """Passes over all structures in batches: the indices of each batch, and what the network sees of them.

    Args:
        structures: any mixture.
        backbone: the network.
        layers: whose features are wanted.
        energies: whether the backbone's own energies are.
        gradients: whether gradients will be asked for.
        batch_atoms: a batch holds structures up to so many atoms together (at least one structure).
        change: of the weights, along which the energies' derivative is wanted as well.
    """
    for chosen in batches([len(a) for a in structures], batch_atoms or BATCH_ATOMS):
        graph = build_batch([structures[t] for t in chosen], backbone.cutoff, backbone.max_neighbours)
        yield chosen, look(graph, backbone, layers, energies, gradients, change)


def batches(sizes: Sequence[int], batch_atoms: int) -> Iterator[list[int]]:
    """Consecutive indices whose sizes add up to at most `batch_atoms`, at least one each."""
    current: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if current and total + size > batch_atoms:
            yield current
            current, total = [], 0
        current.append(index)
        total += size
    if current:
        yield current
