"""Workers as jobs of a queueing system, by dask-jobqueue's own configuration.

jobs: 8                  # how many are submitted
jobqueue:
  slurm:                 # or pbs, sge, lsf, htcondor, moab, oar, local
    cores: 1
    memory: 4GB
    walltime: "02:00:00"
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mekrr.cluster.computing import DEATHS
from mekrr.errors import ClusterError

SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
    "local": "LocalCluster",
}


@contextmanager
def jobs(path: Path) -> Iterator[str]:
    """The scheduler of a configuration file, its jobs submitted; they end with the block.

    Raises:
        ClusterError: when dask-jobqueue is missing, the file says something else, or the queue refuses.
    """
    system, count, settings = read(path)
    try:
        import dask
        import dask_jobqueue
        from dask_jobqueue.local import LocalCluster
    except ImportError as error:
        raise ClusterError(
            f"{path} needs dask-jobqueue, which is not installed; run: pip install dask-jobqueue"
        ) from error
    kind = LocalCluster if system == "local" else getattr(dask_jobqueue, SYSTEMS[system])
    # one thread a process: as many processes as cores, unless the file says otherwise
    settings = {"processes": settings.get("cores", 1)} | settings
    with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS}):
        try:
            cluster = kind(**settings)
        except (TypeError, ValueError) as error:
            raise ClusterError(
                f"{path}: {system} cannot be set up so: {error}; see dask-jobqueue's documentation"
            ) from error
        with closing(cluster):
            try:
                cluster.scale(jobs=count)
            except (OSError, RuntimeError) as error:
                raise ClusterError(f"{path}: the jobs cannot be submitted: {error}") from error
            yield cluster.scheduler_address


@contextmanager
def closing(cluster: Any) -> Iterator[None]:
    """End the cluster with the block, whatever Dask makes of that.

    Its bookkeeping of workers stumbles over those that were killed (a KeyError), and on a busy machine it runs out of
    time: the results are there by then, and an error of the block's own must not be hidden.
    """
    try:
        yield
    finally:
        with suppress(Exception):
            cluster.close(timeout=60)


def read(path: Path) -> tuple[str, int, dict[str, Any]]:
    """The queueing system, the number of jobs, and its settings.

    Raises:
        ClusterError: when the file is missing or says something else.
    """
    import yaml

    try:
        text = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ClusterError(f"{path} cannot be opened: {error.strerror}; correct the name") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"{path} cannot be read as YAML: {error}") from error
    queue = text.get("jobqueue") if isinstance(text, dict) else None
    if not isinstance(queue, dict) or len(queue) != 1 or next(iter(queue)) not in SYSTEMS:
        found = ", ".join(map(str, queue)) if isinstance(queue, dict) else "nothing"
        raise ClusterError(
            f"{path}: under jobqueue there must be one of {', '.join(SYSTEMS)}, as in dask-jobqueue's configuration; "
            f"there is {found}"
        )
    count = text.get("jobs")
    if not (isinstance(count, int) and count > 0):
        raise ClusterError(f"{path}: jobs must say how many jobs are submitted, from 1 on; got {count!r}")
    ((system, settings),) = queue.items()
    if not isinstance(settings or {}, dict):
        raise ClusterError(f"{path}: {system} must hold settings; there is {settings!r}")
    return system, count, dict(settings or {})
