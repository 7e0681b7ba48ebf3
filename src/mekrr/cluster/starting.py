"""Clusters by what --cluster says: processes here, a scheduler that is there, jobs of a queueing system."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mekrr.cluster.computing import DEATHS, ClusterShards
from mekrr.cluster.jobqueue import closing, jobs
from mekrr.errors import ClusterError
from mekrr.shards import HERE, Shards

NONE = "none"  # this process alone
ANSWER = 15.0  # seconds in which a scheduler must answer
# Dask gives up a worker, and with it the one that replaces it, that is away when this time after some death is over:
# its 15 s pass while packages load beside other work.
REPLACED_IN = "1h"


@contextmanager
def connected(where: str | None) -> Iterator[Shards]:
    """Shards by what --cluster says; what was started for the block ends with it.

    Args:
        where: local:N for N processes here, the address of a scheduler, or a YAML file of dask-jobqueue's configuration
            with the number of jobs beside it; "none" or None for this process.

    Raises:
        ValueError: for anything else.
        ClusterError: when Dask is not installed, or the scheduler does not answer.
    """
    if where is None or where == NONE:
        yield HERE
        return
    start = _starter(where)
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ClusterError(
            f"--cluster {where} needs Dask, which is not installed; run: pip install dask distributed"
        ) from error
    with ExitStack() as stack:
        address = stack.enter_context(start())
        try:
            client = stack.enter_context(Client(address, timeout=ANSWER, set_as_default=False))
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"--cluster {where}: no scheduler answers there within {ANSWER:.0f} s ({error}); start one (dask "
                "scheduler) or correct the address"
            ) from error
        yield ClusterShards(client=client)


def check_where(where: str) -> None:
    """Refuse what --cluster does not take, before anything is started.

    Raises:
        ValueError: for anything but none, local:N, an address or a YAML file.
    """
    if where != NONE:
        _starter(where)


def _starter(where: str) -> Callable[[], Any]:
    """What makes the cluster, or names the one that is there."""
    kind, _, rest = where.partition(":")
    if kind == "local":
        if not (rest.isdigit() and int(rest) > 0):
            raise ValueError(f"--cluster local:N takes a number of processes from 1 on; got {where!r}")
        return lambda: _local(int(rest))
    if "://" in where:
        return lambda: _there(where)
    if where.endswith((".yaml", ".yml")):
        return lambda: jobs(Path(where))
    raise ValueError(
        f"--cluster takes local:N, the address of a scheduler (tcp://host:8786), a .yaml file or none; got {where!r}"
    )


@contextmanager
def _there(address: str) -> Iterator[str]:
    yield address


@contextmanager
def _local(count: int) -> Iterator[str]:
    """Processes of one thread each, on this machine; one that dies is replaced."""
    import dask
    from dask.distributed import LocalCluster

    settings = {"distributed.scheduler.allowed-failures": DEATHS, "distributed.deploy.lost-worker-timeout": REPLACED_IN}
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # of its status pages, which nobody else is shown
            silence_logs=logging.CRITICAL,
        )
        with closing(cluster):
            yield cluster.scheduler_address
