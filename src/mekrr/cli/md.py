"""mekrr md."""

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from ase import Atoms
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mekrr.calculators import Calculator
from mekrr.cli.console import err, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import (
    STOPPED_CODE,
    CoresOption,
    DeviceOption,
    JsonOption,
    ModelArgument,
    TrustOption,
)
from mekrr.cli.outputs import TRAJECTORY_SUFFIXES, require_apart, require_new, require_output
from mekrr.cli.shown import new_table, show
from mekrr.cli.tables import number
from mekrr.dynamics import (
    Settings,
    State,
    Summary,
    Trajectory,
    Watch,
    WatchOptions,
    continue_from,
    draw_velocities,
    has_velocities,
    read_start,
    require_same_energy,
    require_temperature,
    run,
    temperature,
)
from mekrr.dynamics.settings import FRICTION, TEMPERATURE
from mekrr.potential import KernelPotential

REFRESH = 0.1  # seconds between two updates of the progress line


class Ensemble(StrEnum):
    """How to integrate."""

    NVE = "nve"
    LANGEVIN = "langevin"


@dataclass(frozen=True)
class Beginning:
    """The atoms as a run takes them up.

    Attributes:
        atoms: with velocities.
        step: that of the last frame of the run that is continued; None where a run begins.
        time_fs: at that step.
        velocities: "kept", "drawn" or "continued".
        energy: stored with the frame that is continued, eV.
    """

    atoms: Atoms
    step: int | None
    time_fs: float
    velocities: str
    energy: float | None = None


@with_options(without=("thermostat", "friction"), settings=Settings, watching=WatchOptions)
def md(
    model: ModelArgument,
    start: Annotated[Path, typer.Argument(metavar="START", help="A file with the structure to start from.")],
    settings: Settings,
    watching: WatchOptions,
    output: Annotated[Path, typer.Option("-o", "--output", help="The trajectory to write (.extxyz).")],
    ensemble: Annotated[Ensemble, typer.Option(help="Constant energy, or a Langevin thermostat.")] = Ensemble.NVE,
    temperature: Annotated[
        float | None,
        typer.Option(help=f"K; of drawn velocities and of the thermostat; {TEMPERATURE:g} if not given."),
    ] = None,
    friction: Annotated[float | None, typer.Option(help=f"1/ps; of langevin; {FRICTION:g} if not given.")] = None,
    index: Annotated[int, typer.Option("--index", help="Which structure of START; negative from the end.")] = -1,
    new_velocities: Annotated[
        bool, typer.Option("--new-velocities", help="Draw velocities even if START has some.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole frame of the output.")] = False,
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Molecular dynamics from START with MODEL, its uncertainty watched."""
    trajectory = _open(output, resume, (model, start))
    if watching.label_to is not None:
        require_output(Path(watching.label_to), TRAJECTORY_SUFFIXES, (model, start))
        require_apart(Path(watching.label_to), output)
        if not resume:
            require_new(Path(watching.label_to))
    thermostat = _thermostat(ensemble, temperature, friction)
    settings = replace(settings, thermostat=thermostat, friction=FRICTION if friction is None else friction)
    potential = KernelPotential.load(model, device, trust_checkpoint)
    watch = Watch(watching, potential.fitted_.record, continued=resume)
    if output.exists():
        trajectory.hold()
    beginning = _begin(start, index, trajectory if resume else None, settings, temperature, new_velocities)
    beginning.atoms.calc = Calculator(potential, uncertainty=watching.deviations)
    if beginning.energy is not None:
        require_same_energy(beginning.atoms, beginning.energy, output)
    _announce(beginning, settings, output, watch)
    try:
        with _Line(settings.steps) as line:
            summary = run(beginning.atoms, settings, trajectory, beginning.step, beginning.time_fs, line, watch)
    except KeyboardInterrupt:
        err.print(f"{output} holds whole frames only; go on with --resume", soft_wrap=True, highlight=False)
        raise
    if json:
        print_json(_record(summary, beginning, settings, output, ensemble) | watch.as_dict() | {"threads": threads})
    else:
        _print(summary, settings, output, watch)
    if watch.stopped:
        raise typer.Exit(STOPPED_CODE)


def _open(output: Path, resume: bool, inputs: tuple[Path, ...]) -> Trajectory:
    """The trajectory to write.

    Raises:
        ValueError, OSError: when it may not or cannot be written.
    """
    require_output(output, TRAJECTORY_SUFFIXES, inputs)
    if output.exists() and not resume:
        raise FileExistsError(f"{output} exists: go on with it by --resume, or choose another output")
    return Trajectory(output)


def _thermostat(ensemble: Ensemble, temperature: float | None, friction: float | None) -> float | None:
    """The temperature of the thermostat, if there is one.

    Raises:
        ValueError: for a temperature that is none, or a friction without a thermostat.
    """
    if temperature is not None:
        require_temperature(temperature)
    if ensemble is Ensemble.LANGEVIN:
        return TEMPERATURE if temperature is None else temperature
    if friction is not None:
        raise ValueError("--friction belongs to a thermostat: add --ensemble langevin, or leave it out")
    return None


def _begin(
    start: Path,
    index: int,
    continued: Trajectory | None,
    settings: Settings,
    temperature: float | None,
    new_velocities: bool,
) -> Beginning:
    """Where to begin: the last whole frame of `continued` if it has one, otherwise START with velocities."""
    atoms, found = read_start(start, index)
    err.print(f"START: {start}, index {found}: {describe(atoms)}", soft_wrap=True, highlight=False, markup=False)
    frame, cut = (None, 0) if continued is None else continued.recover()
    if cut and continued is not None:
        err.print(f"cut off half a frame ({cut} bytes) at the end of {continued.path}", soft_wrap=True, markup=False)
    if frame is not None and continued is not None:
        step = continue_from(atoms, frame, continued.path)
        energy = frame.get_potential_energy() if frame.calc is not None else None
        return Beginning(atoms, step, float(frame.info["time_fs"]), "continued", energy)
    if has_velocities(atoms) and not new_velocities:
        if temperature is not None and settings.thermostat is None:
            err.print("[yellow]warning:[/yellow] --temperature is not used: START has velocities (--new-velocities)")
        return Beginning(atoms, None, 0.0, "kept")
    draw_velocities(atoms, TEMPERATURE if temperature is None else temperature, settings.seed)
    return Beginning(atoms, None, 0.0, "drawn")


def describe(atoms: Atoms) -> str:
    """Formula, periodicity and constraints, in words."""
    axes = " ".join(axis for axis, on in zip("abc", atoms.pbc, strict=True) if on)
    fixed = f", {len(atoms.constraints)} constraints kept" if atoms.constraints else ""
    return f"{atoms.get_chemical_formula()}, {'periodic along ' + axes if axes else 'not periodic'}{fixed}"


def _announce(beginning: Beginning, settings: Settings, output: Path, watch: Watch) -> None:
    """What will be done, on stderr."""
    warm = temperature(beginning.atoms)
    velocities = {
        "kept": f"velocities of START kept ({warm:.0f} K)",
        "drawn": f"velocities drawn, seed {settings.seed} ({warm:.0f} K in this draw)",
        "continued": f"continued from step {beginning.step} of {output} ({warm:.0f} K)",
    }[beginning.velocities]
    how = "velocity Verlet at constant energy"
    if settings.thermostat is not None:
        how = f"Langevin at {settings.thermostat:g} K, friction {settings.friction:g}/ps"
    err.print(
        f"{velocities}\n{how}, {settings.timestep:g} fs, {settings.steps} steps, a frame every {settings.every}\n"
        f"{watch.announcement()}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if beginning.step is not None and beginning.step >= settings.steps:
        err.print(f"{output} holds {beginning.step} steps already: raise --steps to go on", soft_wrap=True)


class _Line:
    """The progress line; silent where stderr is no terminal."""

    def __init__(self, steps: int) -> None:
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(20),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps)
        self._shown = 0.0

    def __enter__(self) -> "_Line":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, state: State) -> None:
        now = time.monotonic()
        if self._progress.disable or now - self._shown < REFRESH:
            return
        self._shown = now
        self._progress.update(
            self._task,
            completed=state.step,
            description=escape(
                f"{state.temperature:.0f} K  E {state.total_energy:.4f} eV  drift {number(state.drift)} meV/atom/ps  "
                f"deviation {number(state.deviation)} meV/atom"
            ),
        )


def _record(
    summary: Summary, beginning: Beginning, settings: Settings, output: Path, ensemble: Ensemble
) -> dict[str, Any]:
    """The object of `mekrr md --json`."""
    return {
        "output": str(output),
        "n_atoms": len(beginning.atoms),
        "ensemble": ensemble.value,
        "temperature_k": settings.thermostat,
        "timestep_fs": settings.timestep,
        "velocities": beginning.velocities,
        **summary.as_dict(),
    }


def _print(summary: Summary, settings: Settings, output: Path, watch: Watch) -> None:
    table = new_table(f"steps {summary.first_step} to {summary.last_step}", heads=False)
    seconds = summary.seconds_per_step
    table.add_row("seconds per step", "-" if seconds is None else f"{seconds:.4f}")
    if settings.thermostat is None:
        table.add_row("drift of the energy, meV/atom/ps", number(summary.drift_mev_per_atom_per_ps))
    table.add_row("mean temperature, K", f"{summary.mean_temperature_k:.1f}")
    show(table, out)
    lines = [*watch.lines(), f"wrote {output}"]
    if watch.stopped:
        lines.append(
            f"stopped at step {summary.last_step}: the deviation passed the threshold; the last frame of {output} is "
            "the one to label"
        )
    out.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
