"""A network whose weights have been changed: a backbone like any other, with an identity of its own."""

import copy
import hashlib
from typing import Any

import torch

from mekrr.backbones.base import Backbone
from mekrr.backbones.linear_maps import change_weights
from mekrr.backbones.weight_gradients import WeightChange


def changed(backbone: Backbone, change: WeightChange) -> Backbone:
    """A copy of the network with the change added to its weights for good.

    Args:
        backbone: stays as it is.
        change: common to all elements, as weights of a layer are.

    Raises:
        ValueError: when the change differs from element to element, or names maps that the network does not have.
    """
    unknown = sorted(set(change.core) - {m.name for m in backbone.linear_maps})
    if unknown:
        raise ValueError(f"{backbone.name} has no linear maps {', '.join(unknown)}; the change is of another network")
    deltas, digest = {}, hashlib.sha256(backbone.weights_hash.encode())
    for name in sorted(change.core):
        left, core, right = (part.double().cpu() for part in (change.left[name], change.core[name], change.right[name]))
        if not bool((core == core[:1]).all()):
            raise ValueError(f"{name}: the change differs between elements, and the weights of a layer cannot")
        deltas[name] = left @ core[0] @ right.T
        digest.update(name.encode() + deltas[name].numpy().tobytes())
    found: Backbone = object.__new__(type(backbone))  # not by its own way of travelling, which loads it again
    vars(found).update(copy.deepcopy(vars(backbone), _traced(backbone)))
    found.origin = backbone, change
    change_weights(found.linear_layers, deltas)
    found.weights_hash = digest.hexdigest()
    return found


def _traced(backbone: Backbone) -> dict[int, Any]:
    """Copies of the modules that run traced code, weights their own and code in common.

    e3nn's modules travel as pickles of their code, which would be traced and compiled again for every copy: a second
    where the rest takes milliseconds.
    """
    held = [
        part for value in vars(backbone).values() for part in (value.values() if isinstance(value, dict) else [value])
    ]
    modules = {id(m): m for part in held if isinstance(part, torch.nn.Module) for m in part.modules()}
    found: dict[int, Any] = {}
    for key, module in modules.items():
        children = dict(module.named_children())
        code = [name for name, child in children.items() if isinstance(child, torch.fx.GraphModule)]
        if code and len(code) == len(children) and not any(list(children[name].parameters()) for name in code):
            twin = object.__new__(type(module))
            vars(twin).update({name: copy.copy(value) for name, value in vars(module).items()})
            for weights in ("_parameters", "_buffers"):
                vars(twin)[weights] = copy.deepcopy(vars(module)[weights], found)
            found[key] = twin
    return found
