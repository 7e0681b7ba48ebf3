"""Shards on the workers of a Dask cluster: what computes where changes the time, not a bit of the result.

Functions, shards and results travel as pickles between processes of one user, by Dask's own messages; none is read from
a file. A function travels once to each worker and is kept there, so that its network and graphs serve all shards. A
shard whose worker dies is computed again by another one, from what the scheduler keeps.
"""

import ctypes
import pickle
import platform
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from importlib.metadata import PackageNotFoundError, version
from operator import add
from typing import TYPE_CHECKING, Any

import torch

from mekrr._version import __version__
from mekrr.errors import ClusterError, MekrrWarning
from mekrr.shards import FAN, HERE, Part, Shards, Work

if TYPE_CHECKING:
    from dask.distributed import Client, Future

FIRST_WORKER = 600.0  # seconds until the first worker must be there: a queue may be long
ALONE = 120.0  # seconds without any worker before a computation is given up
DEATHS = 10  # workers that may die over one shard before the shard is to blame
POLL = 2.0
PACKAGES = ("torch", "numpy", "ase", "vesin")  # the last bits depend on them
# mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, the latter at the largest value that all versions take
KEPT_FREE = ((-1, 1_000_000_000), (-3, 32 * 1024 * 1024))


@dataclass(frozen=True)
class Done:
    """A result with who computed it.

    Attributes:
        value: of the function, or a sum of such.
        credits: worker and seconds of each shard in it.
    """

    value: Any
    credits: tuple[tuple[str, float], ...]


@dataclass(eq=False)
class ClusterShards(Shards):
    """Functions of shards on the workers of a client's cluster.

    Attributes:
        client: connected.
        lost: workers that were there and are no more.
    """

    client: "Client" = field(kw_only=True)
    lost: set[str] = field(default_factory=set, kw_only=True)
    _seen: set[str] = field(default_factory=set, init=False)
    _kept: dict[int, tuple[Any, "Future"]] = field(default_factory=dict, init=False)
    _progress: tuple[int, int] = field(default=(0, 0), init=False)

    def __post_init__(self) -> None:
        check_workers(self.client)

    @property
    def elsewhere(self) -> bool:
        """Always."""
        return True

    def map(
        self, function: Callable[..., Part], shards: Sequence[Any], stage: str = "", state: Any = None
    ) -> Iterator[Part]:
        """See Shards.map.

        Raises:
            ClusterError: when the scheduler or all workers are lost, or a shard ends each worker that takes it.
        """
        futures = deque(self._submitted(function, shards, state))
        with self._cancelled(futures):
            total = len(futures)
            while futures:
                self._progress = total - len(futures), total
                done = self._result(futures[0])
                futures.popleft()  # a result that has arrived need not be kept by its worker
                self._credit(stage, done)
                yield done.value

    def sum(
        self,
        function: Callable[..., Part],
        shards: Sequence[Any],
        stage: str = "",
        state: Any = None,
        progress: Callable[[int], None] | None = None,
    ) -> Part:
        """See Shards.sum; nodes of the tree are added where their parts are, and one sum travels.

        Raises:
            ClusterError: see `map`.
        """
        futures = self._submitted(function, shards, state)
        if not futures:
            raise ValueError("there are no structures to sum over")
        leaves = len(futures)
        with self._cancelled(futures):
            nodes = futures
            while len(nodes) > 1:
                groups = [nodes[k : k + FAN] for k in range(0, len(nodes), FAN)]
                nodes = [g[0] if len(g) == 1 else self.client.submit(add_up, *g, pure=False) for g in groups]
                futures += nodes
            count = partial(self._count, futures[:leaves], progress)
            done = self._result(nodes[0], count)
            count()
        self._credit(stage, done)
        return done.value

    def status(self) -> str:
        """Workers and shards, for a progress bar."""
        done, total = self._progress
        n = len(self._workers())
        return f"{n} worker{'s' * (n != 1)}, shard {min(done + 1, total)} of {total}" if total else ""

    def _count(self, futures: Sequence["Future"], progress: Callable[[int], None] | None) -> None:
        done = sum(future.done() for future in futures)
        self._progress = done, len(futures)
        if progress is not None:
            progress(done)

    def _submitted(self, function: Callable, shards: Sequence[Any], state: Any) -> list["Future"]:
        kept = self._payload(function)
        common = None if state is None else self._sent(state)
        return [
            self.client.submit(compute, kept, packed(shard), common, __version__, pure=False, retries=0)
            for shard in shards
        ]

    def _payload(self, function: Callable) -> "Future":
        """The function on the cluster; sent once while it is the same object."""
        if id(function) not in self._kept:
            self._kept = {id(function): (function, self._sent(function))}  # the object is held, so its id stays its own
        return self._kept[id(function)][1]

    def _sent(self, what: Any) -> "Future":
        """A task that gives the pickle: unlike scattered data it is made again when its worker dies."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            return self.client.submit(same, packed(what), pure=False)

    def _result(self, future: "Future", waiting: Callable[[], None] = lambda: None) -> Done:
        from dask.distributed import CancelledError, KilledWorker
        from dask.distributed import TimeoutError as NotYet

        last = time.monotonic()
        while True:
            try:
                return future.result(timeout=POLL)
            except NotYet:
                last = time.monotonic() if self._workers() else last
                waiting()
                if time.monotonic() - last > ALONE:
                    raise ClusterError(
                        f"no worker has been left for {ALONE:.0f} s; look at the workers' logs (memory?), start new "
                        "ones and run again: with --cache, what was computed is not computed again"
                    ) from None
            except KilledWorker as error:
                raise ClusterError(
                    f"{DEATHS} workers ended over the same shard ({error}); usually memory: give each worker more, or "
                    "lower --batch-atoms"
                ) from error
            except (CancelledError, OSError) as error:
                if self.client.status == "running" and isinstance(error, OSError):
                    raise
                raise ClusterError(
                    "the scheduler was lost; start it and run again: with --cache, what was computed is not computed "
                    "again"
                ) from error

    def _workers(self) -> set[str]:
        """Addresses of those that are there."""
        try:
            there = set(self.client.scheduler_info(n_workers=-1)["workers"])
        except (KeyError, OSError):
            return set()
        self._seen |= there
        self.lost |= self._seen - there
        return there

    def _credit(self, stage: str, done: Done) -> None:
        for worker, seconds in done.credits:
            found = next((w for w in self.work if (w.stage, w.worker) == (stage, worker)), None)
            if found is None:
                found = Work(stage, worker)
                self.work.append(found)
            found.shards += 1
            found.seconds += seconds

    @contextmanager
    def _cancelled(self, futures: "deque[Future] | list[Future]") -> Iterator[None]:
        """What is left when an error or an interrupt ends the block is not computed."""
        try:
            yield
        except BaseException:
            if self.client.status == "running":
                self.client.cancel(list(futures), force=True)
            raise
        finally:
            self._progress = (0, 0)


def packed(what: Any) -> bytes:
    """A pickle: Dask would look into lists and tensors for tasks."""
    return pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL)


def same(payload: bytes) -> bytes:
    """The payload, as the result of a task."""
    return payload


def compute(function: bytes, shard: bytes, state: bytes | None, expected: str) -> Done:
    """What a worker does of one shard, with one thread.

    Raises:
        ClusterError: when the worker has another version of mekrr.
    """
    from dask.distributed import get_worker

    if expected != __version__:
        raise ClusterError(_other_version({get_worker().address: __version__}, expected))
    torch.set_num_threads(1)  # the bits of sums depend on it
    keep_freed_memory()
    start = time.perf_counter()
    call, one = unpacked(function), pickle.loads(shard)
    found = call(one) if state is None else call(one, unpacked(state))
    return Done(found, ((get_worker().address, time.perf_counter() - start),))


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let this process keep the memory of tensors that are gone for the next ones.

    Dask starts its workers with MALLOC_TRIM_THRESHOLD_=65536, which gives memory back to the system at every turn: the
    derivatives of a network then take more than twice as long. Other C libraries than glibc have no such setting.
    """
    with suppress(AttributeError, OSError, TypeError):
        for parameter, size in KEPT_FREE:
            ctypes.CDLL(None).mallopt(parameter, size)


def add_up(*parts: Done) -> Done:
    """A node of the tree, see `mekrr.shards.merge`."""
    return Done(reduce(add, [part.value for part in parts]), tuple(c for part in parts for c in part.credits))


@lru_cache(maxsize=4)
def unpacked(payload: bytes) -> Any:
    """What the pickle holds, the same object each time, so that what it keeps serves the next shard."""
    return pickle.loads(payload)


def installed() -> dict[str, str]:
    """Versions of what the bits depend on, in this process."""
    found = {"mekrr": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def check_workers(client: "Client") -> None:
    """Wait for a worker, and refuse those of another version.

    Raises:
        ClusterError: when there is no worker, or one has another version of mekrr or none.
    """
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler has had no worker for {FIRST_WORKER:.0f} s; start some (dask worker ADDRESS --nthreads 1)"
        ) from error
    found = client.run(installed, on_error="return")
    broken = {worker: f"none that answers ({e})" for worker, e in found.items() if isinstance(e, BaseException)}
    if broken:
        raise ClusterError(_other_version(broken, __version__))
    own = installed()
    others = {worker: each["mekrr"] for worker, each in found.items() if each["mekrr"] != own["mekrr"]}
    if others:
        raise ClusterError(_other_version(others, __version__))
    for package, here in own.items():
        if there := {each[package] for each in found.values()} - {here}:
            warnings.warn(
                f"workers have {package} {', '.join(sorted(there))}, here it is {here}: last digits may differ from "
                "those of a fit here",
                MekrrWarning,
                stacklevel=3,
            )


def _other_version(found: Mapping[str, str], wanted: str) -> str:
    worker, theirs = next(iter(found.items()))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"worker {worker}{more} has mekrr {theirs}, the one that asks {wanted}; install the same one on all workers"


def shards_of(cluster: "Shards | Client | None") -> Shards:
    """Where functions of shards are computed: in this process, by a Dask client's workers, or as given.

    Raises:
        TypeError: for anything else.
        ClusterError: see `check_workers`.
    """
    if cluster is None:
        return HERE
    if isinstance(cluster, Shards):
        return cluster
    if not all(hasattr(cluster, name) for name in ("submit", "scheduler_info", "wait_for_workers")):
        raise TypeError(f"cluster must be a dask.distributed.Client; received {type(cluster).__name__}")
    return ClusterShards(client=cluster)
