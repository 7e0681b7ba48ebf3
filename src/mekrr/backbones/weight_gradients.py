"""What a network's energy owes to its weights: gradients in them, their derivatives along directions, and the converse.

For a linear map y = a W at every atom, the gradient of the energy E in W is the sum over atoms of a_i (x) g_i, with the
activation a_i and the back-propagated signal g_i = dE/dy_i, summed over the components of an irrep. Its derivative
along a direction of the atoms is that of a_i and g_i: forward mode over the reverse pass. Conversely, a change of the
weights moves the energy by the tangent dE/dW . dW, forward mode again, whose forces are a reverse pass over it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from mekrr.backbones.base import Backbone, BackboneOutput
from mekrr.backbones.derivatives import edge_directions
from mekrr.backbones.linear_maps import tapped
from mekrr.backbones.process_state import forward_level, forward_product
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Int, Tensor

# Angstrom; of central differences where a network has no forward mode. Halving it doubles the rounding of float32.
STEP = {torch.float32: 0.01, torch.float64: 1e-5}


class WeightGradients(NamedTuple):
    """A pass with everything that the gradient in the weights is made of, maps in the network's order.

    Attributes:
        features: of the layers asked for.
        activations: a of each map, (atoms, n_in, components).
        signals: dE/dy of each map, (atoms, n_out, components), eV.
    """

    features: Float[Tensor, "atoms features"]
    activations: tuple[Tensor, ...]
    signals: tuple[Tensor, ...]


def weight_gradients(
    backbone: Backbone, graph: GraphBatch, vectors: Float[Tensor, "edges 3"], layers: Sequence[str]
) -> WeightGradients:
    """Activations and signals of one pass.

    Args:
        backbone: with an energy and linear maps.
        graph: on its device.
        vectors: edge vectors, in its dtype.
        layers: whose features are wanted.

    Raises:
        ValueError: for given edges that do not come in pairs, on which convolutions rely.
    """
    graph.check_paired()
    n = len(graph.species)
    shifts = tuple(
        torch.zeros(n, m.n_out, m.components, dtype=backbone.dtype, device=backbone.device)
        for m in backbone.linear_maps
    )

    def energy(shifts: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, tuple[Tensor, ...]]]:
        activations, by_name = {}, dict(zip(_names(backbone), shifts, strict=True))

        def tap(name: str, a: Tensor, y: Tensor) -> Tensor:
            activations[name] = a
            return y + by_name[name]

        with tapped(tap):
            output = backbone.forward(graph, vectors, layers)
        assert output.atomic_energies is not None
        met = tuple(activations[name] for name in _names(backbone))
        return output.atomic_energies.sum(), (output.features, met)

    if backbone.forward_mode:
        signals, (features, activations) = torch.func.grad(energy, has_aux=True)(shifts)
        return WeightGradients(features, activations, signals)
    with torch.enable_grad():
        given = tuple(shift.requires_grad_(True) for shift in shifts)
        total, (features, activations) = energy(given)
        signals = torch.autograd.grad(total, given)
    return WeightGradients(features.detach(), tuple(a.detach() for a in activations), signals)


def weight_gradients_along(
    backbone: Backbone,
    graph: GraphBatch,
    directions: Float[Tensor, "probes atoms 3"],
    strain_directions: Float[Tensor, "probes structures 3 3"] | None,
    layers: Sequence[str],
    chunk: int,
) -> Iterator[tuple[WeightGradients, WeightGradients]]:
    """Values and their derivatives along directions, some directions at a time.

    Args:
        backbone: with an energy and linear maps.
        graph: on its device; a direction moves the atoms of all its structures at once.
        directions: dimensionless.
        strain_directions: symmetric strains that go with them, None for fixed cells.
        layers: whose features are wanted.
        chunk: directions done at once; bounds the memory.

    Yields:
        The values, and the derivatives with the directions of the chunk in front.
    """
    point = graph.edge_vectors().to(backbone.dtype)
    moves = edge_directions(graph, directions.to(graph.positions), strain_directions).to(point)
    products = _forward_products if backbone.forward_mode else _differences
    for part in moves.split(chunk):
        yield products(backbone, graph, point, part, layers)


def _forward_products(
    backbone: Backbone, graph: GraphBatch, point: Tensor, moves: Tensor, layers: Sequence[str]
) -> tuple[WeightGradients, WeightGradients]:
    """Forward mode over the reverse pass, all directions of a chunk at once."""

    def product(move: Tensor) -> tuple[WeightGradients, WeightGradients]:
        found, tangents, *_ = forward_product(
            lambda vectors: weight_gradients(backbone, graph, vectors, layers), (point,), (move,)
        )
        return found, tangents

    with torch.no_grad():
        values, tangents = torch.func.vmap(product, out_dims=(None, 0))(moves)  # type: ignore[arg-type]
    return values, tangents


def _differences(
    backbone: Backbone, graph: GraphBatch, point: Tensor, moves: Tensor, layers: Sequence[str]
) -> tuple[WeightGradients, WeightGradients]:
    """Central differences of two reverse passes a direction."""
    found, step = [], STEP[backbone.dtype]
    for move in moves:
        ahead, behind = (weight_gradients(backbone, graph, point + sign * step * move, layers) for sign in (1, -1))
        found.append(
            WeightGradients(
                (ahead.features - behind.features) / (2 * step),
                tuple((a - b) / (2 * step) for a, b in zip(ahead.activations, behind.activations, strict=True)),
                tuple((a - b) / (2 * step) for a, b in zip(ahead.signals, behind.signals, strict=True)),
            )
        )
    stacked = WeightGradients(
        torch.stack([one.features for one in found]),
        tuple(torch.stack(parts) for parts in zip(*(one.activations for one in found), strict=True)),
        tuple(torch.stack(parts) for parts in zip(*(one.signals for one in found), strict=True)),
    )
    return weight_gradients(backbone, graph, point, layers), stacked


@dataclass(frozen=True, eq=False)
class WeightChange:
    """A change of a network's weights, one for each element: y_i += a_i left C_z right'.

    Attributes:
        left: by map, (n_in, rank).
        right: by map, (n_out, rank).
        core: C by map, one for each element: (elements + 1, left rank, right rank), the last for all other elements.
            Several changes have theirs one after another.
        species: atomic numbers of the elements, ascending.
        copies: number of changes, one for each of as many copies of the same atoms, which follow one another.
    """

    left: Mapping[str, Float[Tensor, "_n_in _left"]]
    right: Mapping[str, Float[Tensor, "_n_out _right"]]
    core: Mapping[str, Float[Tensor, "elements _left _right"]]
    species: tuple[int, ...]
    copies: int = 1

    def tangent(
        self,
        backbone: Backbone,
        graph: GraphBatch,
        vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
    ) -> tuple[BackboneOutput, Float[Tensor, "atoms"]]:
        """The network's output, and the derivative of its atomic energies along the change, eV.

        Both can be differentiated once more, in the edge vectors. By a second reverse pass, whose atomic energies are
        those of the atoms where the weights act; or by forward mode, at about twice the cost of a pass, where the
        network says that it cannot do the first (reverse over forward mode through CHGNet gives wrong gradients without
        a word). Differences of two networks would leave the rounding of float32 over their step.
        """
        row = self._rows(graph.species)
        if backbone.double_reverse:
            return self._by_reverse(backbone, graph, vectors, layers, row)

        def tap(name: str, a: Tensor, y: Tensor) -> Tensor:
            value, tangent = forward_ad.unpack_dual(y)
            added = self.change(name, forward_ad.unpack_dual(a).primal, row)
            return forward_ad.make_dual(value, added if tangent is None else tangent + added)

        with forward_level(), tapped(tap):
            output = backbone.forward(graph, vectors, layers)
            assert output.atomic_energies is not None
            energies, tangent = forward_ad.unpack_dual(output.atomic_energies)
            features = forward_ad.unpack_dual(output.features).primal
        return BackboneOutput(features, energies), torch.zeros_like(energies) if tangent is None else tangent

    def _rows(self, species: Int[Tensor, "atoms"]) -> Int[Tensor, "atoms"]:
        """The place of each atom's change in the core."""
        copy = torch.arange(self.copies, device=species.device).repeat_interleave(len(species) // self.copies)
        return element_rows(species, self.species) + (len(self.species) + 1) * copy

    def change(self, name: str, a: Tensor, row: Tensor) -> Tensor:
        """What is added to y of a map."""
        left, right, core = (part[name].to(a) for part in (self.left, self.right, self.core))
        mixed = torch.einsum("iuc,ur->icr", a, left) @ core[row]
        return torch.einsum("ics,vs->ivc", mixed, right)

    def _by_reverse(
        self, backbone: Backbone, graph: GraphBatch, vectors: Tensor, layers: Sequence[str], row: Tensor
    ) -> tuple[BackboneOutput, Tensor]:
        met: list[tuple[Tensor, Tensor]] = []

        def tap(name: str, a: Tensor, y: Tensor) -> Tensor:
            y = y if y.requires_grad else y.detach().requires_grad_(True)
            met.append((y, self.change(name, a, row)))
            return y

        wanted = torch.is_grad_enabled()
        with torch.enable_grad(), tapped(tap):
            output = backbone.forward(graph, vectors, layers)
            assert output.atomic_energies is not None
            signals = torch.autograd.grad(output.atomic_energies.sum(), [y for y, _ in met], create_graph=wanted)
            parts = [(g * dy).sum((1, 2)) for g, (_, dy) in zip(signals, met, strict=True)]
        return output, sum(parts[1:], parts[0])


def element_rows(species: Tensor, elements: Sequence[int]) -> Tensor:
    """The place of each atom's element among `elements`, len(elements) for all others."""
    row = torch.full((256,), len(elements), dtype=torch.int64, device=species.device)
    row[list(elements)] = torch.arange(len(elements), device=species.device)
    return row[species]


def _names(backbone: Backbone) -> list[str]:
    return [m.name for m in backbone.linear_maps]
