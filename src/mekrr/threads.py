"""How many threads something takes: an evaluation, a decomposition, several trials side by side."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

Given = TypeVar("Given")
Found = TypeVar("Found")

SAMPLE = 0.2  # seconds
_IDLE_COLUMNS = (3, 4)  # of /proc/stat: idle, and waiting for input or output


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


def spinning() -> str | None:
    """A sentence where PyTorch has more threads than cores were idle at the first call, and they would spin.

    The command line takes fewer and lets them sleep (`mekrr.cli.threads`); a library leaves the process as it is.
    """
    count = torch.get_num_threads()
    if count < 2 or os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or (idle := idle_first()) > count - 0.5:
        return None
    return (
        f"PyTorch has {count} threads, and {idle:.1f} cores were idle: threads that wait for others spin, and beside "
        "other work two can take ten times as long as one. torch.set_num_threads(1) helps, or OMP_WAIT_POLICY=PASSIVE "
        "in the environment before Python starts"
    )


@cache
def idle_first() -> float:
    """`idle_cores` at the first call, before this process has kept any of them busy."""
    return idle_cores()


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
