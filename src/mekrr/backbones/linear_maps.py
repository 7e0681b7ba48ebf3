"""The linear maps inside a network: what meets each of them, and what would come out with other weights.

An adapter names the linear layers that act on atoms. While a tap is set, each of them shows it, block by block, what
goes in and what comes out, and the network goes on with what the tap gives back. That is all it takes to read the
gradient of the energy in the weights (activation times back-propagated signal), and to change the weights by element.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from mekrr.typing import Tensor

# The name of a map, a (atoms, n_in, components) and y (atoms, n_out, components) in; the y to go on with out.
Tap = Callable[[str, Tensor, Tensor], Tensor]

# A context variable is one a thread, so that threads that share a network do not see each other's taps.
_tap: ContextVar[Tap | None] = ContextVar("tap", default=None)


@dataclass(frozen=True)
class LinearMap:
    """A linear map y = a W applied at every atom: one block of an equivariant linear layer.

    Attributes:
        name: unique within the network.
        n_in: channels of a.
        n_out: channels of y.
        components: 2 l + 1, carried through unmixed; 1 for scalars.
    """

    name: str
    n_in: int
    n_out: int
    components: int


@dataclass(frozen=True)
class _Block:
    map: LinearMap
    columns_in: slice
    columns_out: slice
    instruction: int  # of an equivariant layer


@contextmanager
def tapped(tap: Tap | None) -> Iterator[None]:
    """Show every linear map that a network meets inside the block to `tap`; None for nothing."""
    token = _tap.set(tap)
    try:
        yield
    finally:
        _tap.reset(token)


def offer_linear_maps(modules: Mapping[str, Any]) -> tuple[LinearMap, ...]:
    """Make linear layers show themselves to the tap, in the order given.

    Args:
        modules: torch.nn.Linear or e3nn's Linear, by name, called once in a pass with one row an atom. Where an output
            comes from several inputs, the map from the largest is offered.
    """
    found: list[LinearMap] = []
    for name, module in modules.items():
        blocks = _blocks(name, module)
        module.register_forward_hook(_hook(blocks))
        found += [block.map for block in blocks]
    return tuple(found)


def change_weights(modules: Mapping[str, Any], changes: Mapping[str, Tensor]) -> None:
    """Add to the weights of linear layers, in place.

    Args:
        modules: as offered.
        changes: of some of their maps by name, (n_in, n_out), so that y grows by a times the change.
    """
    with torch.no_grad():
        for name, module in modules.items():
            for block in _blocks(name, module):
                change = changes.get(block.map.name)
                if change is None:
                    continue
                if isinstance(module, torch.nn.Linear):
                    module.weight += change.T.to(module.weight)
                else:  # e3nn multiplies weights by a factor that keeps the variance of outputs at 1
                    view = module.weight_view_for_instruction(block.instruction)
                    view += change.to(view) / module.instructions[block.instruction].path_weight


def map_columns(modules: Mapping[str, Any]) -> dict[str, tuple[list[int], list[slice]]]:
    """Widths of the outputs of each layer's maps, in the order in which they make up its output, and input columns.

    Args:
        modules: as offered.
    """
    found = {}
    for name, module in modules.items():
        blocks = _blocks(name, module)
        found[name] = [b.map.n_out * b.map.components for b in blocks], [b.columns_in for b in blocks]
    return found


def _hook(blocks: list[_Block]) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor | None]:
    def show(module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        tap = _tap.get()
        if tap is None:
            return None
        return torch.cat([_shown(tap, block, inputs[0], output) for block in blocks], dim=1)

    return show


def _shown(tap: Tap, block: _Block, a: Tensor, y: Tensor) -> Tensor:
    m = block.map
    a = a[:, block.columns_in].reshape(len(a), m.n_in, m.components)
    y = y[:, block.columns_out].reshape(len(y), m.n_out, m.components)
    return tap(m.name, a, y).flatten(1)


def _blocks(name: str, module: Any) -> list[_Block]:
    """Of a scalar layer, one; of an equivariant one, one for each irrep, in the order of its outputs."""
    if isinstance(module, torch.nn.Linear):
        n_in, n_out = module.in_features, module.out_features
        return [_Block(LinearMap(name, n_in, n_out, 1), slice(0, n_in), slice(0, n_out), 0)]
    inputs, outputs = module.irreps_in, module.irreps_out
    found: dict[int, _Block] = {}
    for place, instruction in enumerate(module.instructions):
        if instruction.i_in < 0:
            continue  # a bias, which moves with no activation
        (n_in, irrep), (n_out, _) = inputs[instruction.i_in], outputs[instruction.i_out]
        if instruction.i_out in found and found[instruction.i_out].map.n_in >= n_in:
            continue  # the smaller of two inputs, such as the choice between levels of theory
        columns = inputs.slices()[instruction.i_in], outputs.slices()[instruction.i_out]
        found[instruction.i_out] = _Block(LinearMap(f"{name}/{irrep}", n_in, n_out, irrep.dim), *columns, place)
    if sorted(found) != list(range(len(outputs))):
        raise ValueError(f"{name}: outputs without a linear map; offer a layer in which each output has one")
    return [found[i] for i in sorted(found)]
