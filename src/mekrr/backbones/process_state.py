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

_forward_mode = threading.RLock()  # re-entrant: the derivative of a convolution takes one of its filters
_switch = threading.Lock()
_users = 0
_before = (False, False)

# A child forked within a forward pass of another thread would inherit a level that nobody ever leaves.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forward_mode.acquire, after_in_parent=_forward_mode.release, after_in_child=_forward_mode.release
    )


def forward_product(function: Callable[..., Any], points: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """torch.func.jvp, by one thread of the process at a time."""
    with _forward_mode:
        return torch.func.jvp(function, points, tangents)


@contextmanager
def forward_level() -> Iterator[None]:
    """A level of forward mode with dual tensors, by one thread of the process at a time."""
    with _forward_mode, forward_ad.dual_level():
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
