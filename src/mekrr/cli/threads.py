"""How many threads a command takes: one rule for a laptop with other work and for a node of many cores.

A pass through the network is thousands of small operations. After each of them PyTorch's threads wait for one
another, and by default they wait by spinning: where one has lost its core to other work, the others burn theirs until
it is back, so that two threads beside busy cores take many times as long as one. Two remedies, together:

- threads that wait sleep (`OMP_WAIT_POLICY=PASSIVE`, set in `mekrr.cli.main` before PyTorch is loaded);
- no more threads are taken than there are cores without work when the command starts.
"""

import math
import os
import time
from pathlib import Path

import torch

from mekrr.threads import require_threads

MOST = 8  # batches of some hundred atoms keep no more busy
SAMPLE = 0.2  # seconds
ALMOST = 0.75  # a core counts as free when so much of it is
_IDLE_COLUMNS = (3, 4)  # of /proc/stat: idle, and waiting for input or output


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


def idle_cores() -> float:
    """Cores of this process that other work leaves idle, measured for a moment, or from the load where it cannot be."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    try:
        before, own = _idle_seconds(cores), time.process_time()
        time.sleep(SAMPLE)
        idle = (_idle_seconds(cores) - before + time.process_time() - own) / SAMPLE
    except (OSError, ValueError, IndexError):  # no Linux
        idle = len(cores) - os.getloadavg()[0] if hasattr(os, "getloadavg") else float(len(cores))
    return min(idle, _quota(), float(len(cores)))


def _idle_seconds(cores: list[int]) -> float:
    """Idle time of some cores since the start of the machine."""
    wanted = {f"cpu{core}" for core in cores}
    lines = [line.split() for line in Path("/proc/stat").read_text("ascii").splitlines()]
    ticks = [float(line[1 + k]) for line in lines if line and line[0] in wanted for k in _IDLE_COLUMNS]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def _quota() -> float:
    """Cores that a container's limit amounts to."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # no limit, or none of this kind
        return math.inf
