"""A network whose weights have been changed: a backbone like any other, with an identity of its own."""

import copy
import hashlib

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
    vars(found).update(copy.deepcopy(vars(backbone)))
    found.origin = backbone, change
    change_weights(found.linear_layers, deltas)
    found.weights_hash = digest.hexdigest()
    return found
