"""Shape annotations: fixed words for axes are structures, atoms, edges, features, inducing and probes."""

from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Shaped", "Tensor", "ndarray"]
