"""Who computes a fit: processes for the idle cores where that pays, or what --cluster says."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from mekrr.cli.console import err
from mekrr.cluster import NONE, connected
from mekrr.data import Structure
from mekrr.errors import ClusterError
from mekrr.potential import KernelPotential
from mekrr.potential.fit import solver_of
from mekrr.shards import HERE, Shards

# A worker needs ten to twenty seconds to load packages and network and to meet the network for the first time, and
# derivatives of an atom take SevenNet-0 some 20 ms, all its force components some 50 more.
FEWEST_ATOMS = 1500
BYTES_EACH = 2_000_000_000  # of memory that must be free for a worker


@contextmanager
def computing(
    where: str | None, potential: KernelPotential, structures: Sequence[Structure], threads: int | None
) -> Iterator[Shards]:
    """What --cluster says; without it, a process for each idle core if the fit is long enough. It is said.

    The potential computes there within the block, and in this process again after it.

    Args:
        where: of --cluster; None when it was not given.
        potential: not yet fitted.
        structures: to fit to.
        threads: those that the command takes: as many as there are idle cores.

    Raises:
        ClusterError: when what --cluster says cannot be had.
    """
    count = processes_for(where, potential, structures, threads)
    with ExitStack() as stack:
        potential.shards = stack.enter_context(connected(where))
        if count > 1:
            try:
                potential.shards = stack.enter_context(connected(f"local:{count}"))
                err.print(
                    f"structures are shared out to {count} processes, for as many idle cores (--cluster {NONE}: to "
                    "none, with the same results but for the last digits)",
                    soft_wrap=True,
                    highlight=False,
                )
            except (ClusterError, OSError, RuntimeError) as error:
                err.print(f"no processes could be started ({error}): everything is computed in this one")
        try:
            yield potential.shards
        finally:
            potential.shards = HERE


def processes_for(
    where: str | None, potential: KernelPotential, structures: Sequence[Structure], threads: int | None
) -> int:
    """How many processes a fit takes by itself, see `computing`.

    1 where --cluster says who computes, and where derivatives are few, recorded, or made on a card.
    """
    if where is not None or threads is None or threads < 2 or potential.features is not None:
        return 1
    _, forces = solver_of(potential.options, structures)
    atoms = sum(len(s) for s in structures if s.forces is not None) if forces else 0
    if atoms < FEWEST_ATOMS or potential.pretrained.device.type != "cpu":
        return 1
    return min(threads, max(1, _free_bytes() // BYTES_EACH))


def _free_bytes() -> int:
    """Memory that is free, within what a container allows."""
    import psutil  # both come with Dask
    from distributed.system import MEMORY_LIMIT

    return int(min(psutil.virtual_memory().available, MEMORY_LIMIT))
