"""mekrr lammps."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr.cli.console import err, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import STOPPED_CODE, DeviceOption, JsonOption, ThreadsOption, TrustOption
from mekrr.cli.outputs import TRAJECTORY_SUFFIXES, require_apart, require_new, require_output, require_writable
from mekrr.engines import WatchOptions
from mekrr.engines.lammps import Attached, attach, start_lammps
from mekrr.engines.lammps_script import read_script, run_script
from mekrr.potential import KernelPotential

NO_LOG = "none"


@with_options(watch=WatchOptions)
def lammps_command(
    script: Annotated[Path, typer.Argument(metavar="IN", help="An input file of LAMMPS with `pair_style mekrr`.")],
    model: Annotated[Path, typer.Option("--model", metavar="MODEL", help="A file written by mekrr fit.")],
    watch: WatchOptions,
    atomic_deviations: Annotated[
        bool, typer.Option("--atomic-deviations", help="Deviation of each atom's energy, as d_mekrr_std.")
    ] = False,
    variable: Annotated[
        list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="A variable of the input; repeatable.")
    ] = None,
    log: Annotated[str, typer.Option("--log", help="The log of LAMMPS, or none.")] = "log.lammps",
    threads: ThreadsOption = 1,
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Run a LAMMPS input with MODEL as its pair style, the uncertainty watched; one MPI rank."""
    parts = read_script(script)
    if watch.label_to is not None:
        require_output(Path(watch.label_to), TRAJECTORY_SUFFIXES, (model, script))
        require_new(Path(watch.label_to))
    if log != NO_LOG:
        require_writable(Path(log), (model, script))
        if watch.label_to is not None:
            require_apart(Path(watch.label_to), Path(log))
    lmp = start_lammps([*_variables(variable or []), "-log", log, *(["-screen", "none"] if json else [])])
    potential = KernelPotential.load(model, device, trust_checkpoint)

    def come_in(elements: list[str] | None) -> Attached:
        attached = attach(lmp, potential, elements, watch, atomic_deviations, threads)
        for line in (str(attached.elements), attached.watch.announcement()):
            err.print(line, soft_wrap=True, highlight=False, markup=False)
        return attached

    started = time.perf_counter()
    attached = run_script(lmp, parts, come_in)
    seconds = time.perf_counter() - started
    if json:
        print_json(_record(lmp, script, attached, seconds))
    else:
        _print(lmp, attached, seconds)
    lmp.close()
    if attached.watch.stopped:
        raise typer.Exit(STOPPED_CODE)


def _variables(given: list[str]) -> list[str]:
    """As LAMMPS wants them on its command line.

    Raises:
        ValueError: for one that is not NAME=VALUE.
    """
    found = []
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--var takes NAME=VALUE; received {one!r}")
        found += ["-var", name, value]
    return found


def _record(lmp: Any, script: Path, attached: Attached, seconds: float) -> dict[str, Any]:
    """The object of `mekrr lammps --json`."""
    return {
        "input": str(script),
        "elements": attached.elements.symbols,
        "n_atoms": lmp.get_natoms(),
        "last_step": lmp.extract_global("ntimestep"),
        "evaluations": attached.n_evaluations,
        "seconds": seconds,
        **attached.watch.as_dict(),
    }


def _print(lmp: Any, attached: Attached, seconds: float) -> None:
    n = attached.n_evaluations
    step = lmp.extract_global("ntimestep")
    lines = [f"step {step}; {n} evaluations in {seconds:.1f} s", *attached.watch.lines()]
    if attached.watch.stopped:
        lines.append(
            f"stopped at step {step}: the deviation passed the threshold; what follows in the input was not run"
        )
    for line in lines:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
