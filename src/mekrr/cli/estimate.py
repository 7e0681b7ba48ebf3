"""What `mekrr fit --dry-run` shows."""

from collections.abc import Sequence
from dataclasses import asdict

from mekrr.cli.console import out, print_json
from mekrr.cli.shown import new_table, show
from mekrr.data import Structure
from mekrr.potential import KernelPotential
from mekrr.potential.estimate import Estimate


def show_estimate(potential: KernelPotential, structures: Sequence[Structure], processes: int, json: bool) -> None:
    """Estimate a fit and print it.

    Args:
        potential: not fitted.
        structures: to fit to.
        processes: to which the fit would share them out.
        json: as an object.
    """
    found = potential.estimate(structures)
    if json:
        print_json(asdict(found) | {"processes": processes})
        return
    kind = "energies, forces and stress as they are labelled" if found.forces else "energies"
    out.print(
        f"{found.n_structures} structures, {found.n_atoms} atoms; {found.solver} solver, fitted to {kind}",
        soft_wrap=True,
    )
    table = new_table("estimated, from one structure of middle size")
    table.add_column("stage", no_wrap=True)
    for head in ("in the cache", "time"):
        table.add_column(head, justify="right", no_wrap=True)
    for stage, seconds in found.seconds.items():
        table.add_row(stage, str(found.cached.get(stage, "-")), in_words(seconds))
    show(table, out)
    if processes > 1:
        out.print(
            f"times are those of one process: the fit takes {processes} for features, derivatives and exact forces",
            soft_wrap=True,
            highlight=False,
        )
    for line in _lines(found):
        out.print(line, soft_wrap=True, highlight=False)


def _lines(found: Estimate) -> list[str]:
    total = in_words(sum(found.seconds.values()))
    memory, disk = (f"{size / 1e9:.1f} GB" for size in (found.memory_bytes, found.disk_bytes))
    lines = [f"in all {total}, memory {memory} beside PyTorch and the network, {disk} more in the cache"]
    if "exact forces" in found.seconds:
        lines.append("exact forces for a usual number of iterations; --no-exact-forces leaves them out")
    if "refine" in found.seconds:
        lines.append("refine for all rounds that are allowed; it may stop before")
    return [*lines, "kernel and solve within a factor of some; nothing was fitted"]


def in_words(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
