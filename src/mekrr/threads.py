"""How many threads something takes: an evaluation, a decomposition."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def require_threads(count: int) -> None:
    """Refuse more threads than there are cores for this process, or none.

    Raises:
        ValueError: naming how many there are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= count <= cores:
        raise ValueError(f"threads must be from 1 to {cores}, the cores this process may use; received {count}")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads inside; what was set before is set again after.

    The setting belongs to the whole process, which an engine shares: it is held as long as it is needed only.

    Args:
        count: as `require_threads` lets pass.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
