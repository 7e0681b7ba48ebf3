"""What PyTorch keeps once for the whole process, used so that threads do not disturb each other.

The levels of forward-mode differentiation and the switch for deterministic algorithms belong to the process, not to the
thread. Two threads that enter forward mode at once read each other's tangents, or freed memory, without an error.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

_forward_mode = threading.RLock()  # re-entrant: the derivative of a convolution takes one of its filters
_switch = threading.Lock()
_users = 0
_before = (False, False)

# A child forked within a forward pass of another thread would inherit a level that nobody ever leaves.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forward_mode.acquire, after_in_parent=_forward_mode.release, after_in_child=_forward_mode.release
    )


class _NumbersStandStill(TorchFunctionMode):
    """Products with Python numbers as PyTorch's operations for these, under forward mode.

    As operations of two tensors, which `x * 2.0` is, they get a tangent of zero for the number, and PyTorch (2.13)
    finds the shape of a sum with such a tangent by code in Python: 0.3 ms each, a hundred times a pass and back.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS and not kwargs and len(args) == 2:
            x, c = args if isinstance(args[0], torch.Tensor) else args[::-1]
            if isinstance(x, torch.Tensor) and x.is_floating_point() and type(c) in (int, float):
                return torch.ops.aten.mul.Scalar(x, c)
        return func(*args, **(kwargs or {}))


_PRODUCTS = {torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__}


def forward_product(function: Callable[..., Any], points: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """torch.func.jvp, by one thread of the process at a time."""
    with _forward_mode, _NumbersStandStill():
        return torch.func.jvp(function, points, tangents)


@contextmanager
def forward_level() -> Iterator[None]:
    """A level of forward mode with dual tensors, by one thread of the process at a time."""
    with _forward_mode, _NumbersStandStill(), forward_ad.dual_level():
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms while any thread is inside; the last one to leave restores what was set before."""
    global _users, _before
    with _switch:
        if _users == 0:
            _before = (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            )
            torch.use_deterministic_algorithms(True, warn_only=True)
        _users += 1
    try:
        yield
    finally:
        with _switch:
            _users -= 1
            if _users == 0:
                torch.use_deterministic_algorithms(_before[0], warn_only=_before[1])
