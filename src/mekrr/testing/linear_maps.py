"""The part of a backbone's conformance check that is about its linear maps."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from mekrr.backbones import Backbone, WeightChange, tapped, weight_gradients, weight_gradients_along
from mekrr.backbones.derivatives import edge_directions
from mekrr.graph import GraphBatch
from mekrr.typing import Tensor

_CAUSE = (
    "offer only layers that are called once a pass with one row an atom, in plain differentiable torch code; see "
    "Backbone.double_reverse"
)


@runtime_checkable
class Case(Protocol):
    """What the check needs: structures, a source of random numbers, comparisons with a tolerance."""

    @property
    def backbone(self) -> Backbone:
        """To check."""

    @property
    def rng(self) -> np.random.Generator:
        """Of random numbers."""

    def agree_with_difference(self, found: Tensor, curve: Callable[[float], Tensor], what: str, cause: str) -> None:
        """Raise AssertionError unless `found` is the slope of the curve at zero."""


def check_linear_maps(case: Case, graph: GraphBatch) -> None:
    """Taps, gradients in the weights and tangents along a change of them, against differences.

    Args:
        case: of the conformance check.
        graph: of a few structures.

    Raises:
        AssertionError: naming what is wrong.
    """
    backbone = case.backbone
    if not backbone.linear_maps:
        return
    _check_met(case, graph)
    change = _random_change(case, graph)
    vectors = graph.edge_vectors().to(backbone.dtype)
    d = torch.from_numpy(case.rng.normal(size=(1, len(graph.species), 3)))
    move = edge_directions(graph, d)[0].to(vectors)

    def changed(step: float) -> Tensor:
        row = torch.full_like(graph.species, len(change.species))
        with torch.no_grad(), tapped(lambda name, a, y: y + step * change.change(name, a, row)):
            return _total(backbone.forward(graph, vectors, backbone.layers).atomic_energies)

    def tangent(step: float) -> Tensor:
        return _total(change.tangent(backbone, graph, vectors + step * move, backbone.layers)[1])

    case.agree_with_difference(tangent(0.0), changed, "the tangent along a change of the weights", _CAUSE)
    attached = graph.edge_vectors().to(backbone.dtype).requires_grad_(True)
    total = change.tangent(backbone, graph, attached, backbone.layers)[1].sum()
    (gradient,) = torch.autograd.grad(total, attached)
    slope = _total(gradient * move)
    case.agree_with_difference(slope, tangent, "the gradient of that tangent in the edge vectors", _CAUSE)

    def signals(step: float) -> Tensor:
        found = weight_gradients(backbone, graph, vectors + step * move, backbone.layers)
        return torch.cat([part.double().flatten().cpu() for part in (*found.activations, *found.signals)])

    _, moved = next(weight_gradients_along(backbone, graph, d, None, backbone.layers, 1))
    derived = torch.cat([part.double().flatten().cpu() for part in (*moved.activations, *moved.signals)])
    case.agree_with_difference(derived, signals, "derivatives of gradients in the weights", _CAUSE)


def _check_met(case: Case, graph: GraphBatch) -> None:
    met: list[str] = []

    def tap(name: str, a: Tensor, y: Tensor) -> Tensor:
        met.append(name)
        return y

    with tapped(tap):
        case.backbone.forward(graph, graph.edge_vectors(), case.backbone.layers)
    expected = sorted(m.name for m in case.backbone.linear_maps)
    if sorted(met) != expected:
        raise AssertionError(
            f"{case.backbone.name}: a pass shows the maps {sorted(met)}, linear_maps promises {expected}; offer layers "
            "that every pass calls exactly once"
        )


def _random_change(case: Case, graph: GraphBatch) -> WeightChange:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(0.3 * case.rng.normal(size=shape))

    maps = case.backbone.linear_maps
    ranks = {m.name: (min(2, m.n_in), min(2, m.n_out)) for m in maps}
    return WeightChange(
        {m.name: normal(m.n_in, ranks[m.name][0]) for m in maps},
        {m.name: normal(m.n_out, ranks[m.name][1]) for m in maps},
        {name: normal(1, *rank) for name, rank in ranks.items()},
        (),
    )


def _total(values: Tensor | None) -> Tensor:
    assert values is not None
    return values.detach().double().cpu().sum().reshape(1)
