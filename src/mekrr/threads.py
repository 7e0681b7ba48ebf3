"""How many threads something takes: an evaluation, a decomposition, several trials side by side."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Given = TypeVar("Given")
Found = TypeVar("Found")


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


def side_by_side(function: Callable[[Given], Found], given: Sequence[Given], most: int) -> list[Found]:
    """What the function makes of each, in order: several at once, each with one thread of those that PyTorch has.

    For work whose matrices are too small to be shared out among threads. With one thread, or one to do, nothing is
    different from a loop.

    Args:
        function: it may not change what another call reads.
        given: what it is called with.
        most: at once, since each needs memory of its own.
    """
    count = min(torch.get_num_threads(), len(given), most)
    if count < 2:
        return [function(one) for one in given]
    with threads(1), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, given))
