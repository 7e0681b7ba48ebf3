"""How many threads a command takes: one rule for a laptop with other work and for a node of many cores.

A pass through the network is thousands of small operations. After each of them PyTorch's threads wait for one
another, and by default they wait by spinning: where one has lost its core to other work, the others burn theirs until
it is back, so that two threads beside busy cores take many times as long as one. Two remedies, together:

- threads that wait sleep (`OMP_WAIT_POLICY=PASSIVE`, set in `mekrr.cli.main` before PyTorch is loaded);
- no more threads are taken than there are cores without work when the command starts.
"""

import math

import torch

from mekrr.threads import idle_cores, require_threads

MOST = 8  # batches of some hundred atoms keep no more busy
ALMOST = 0.75  # a core counts as free when so much of it is


def use_threads(count: int | None) -> int:
    """Set PyTorch's number of threads for this process, and return it.

    Args:
        count: as given; None for the rule.

    Raises:
        ValueError: for none, or more than there are cores for this process.
    """
    if count is None:
        count = automatic(torch.get_num_threads(), idle_cores())
    else:
        require_threads(count)
    torch.set_num_threads(count)
    return count


def automatic(allowed: int, idle: float) -> int:
    """The rule: as many as there are idle cores, within what OMP_NUM_THREADS allows and what can be kept busy."""
    return max(1, min(allowed, MOST, math.floor(idle + 1 - ALMOST)))
