"""The loop: integrate, watch, write."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from mekrr.data import OWN_RESULTS
from mekrr.data.reading.electrons import electrons
from mekrr.dynamics.settings import Settings
from mekrr.dynamics.start import degrees_of_freedom, temperature
from mekrr.dynamics.trajectory import Trajectory
from mekrr.dynamics.watch import Tally, refuse_leaps, require_finite

WRITTEN_RESULTS = ("energy", "forces", "stress")


@dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
        step: number.
        time_fs: since the first step.
        temperature: K.
        energy: potential, eV.
        total_energy: potential and kinetic, eV.
        energy_std: deviation of the energy, eV; None when the calculator gives none.
        n_atoms: number of atoms.
        drift: of the total energy so far, meV/atom/ps; None at first.
    """

    step: int
    time_fs: float
    temperature: float
    energy: float
    total_energy: float
    energy_std: float | None
    n_atoms: int
    drift: float | None = None

    @property
    def deviation(self) -> float | None:
        """Deviation of the energy, meV/atom."""
        return None if self.energy_std is None else 1000 * self.energy_std / self.n_atoms


@dataclass(frozen=True)
class Summary:
    """What came of a run; figures are over the states of this process, the first one included.

    Attributes:
        first_step: where this process began.
        last_step: where it ended.
        seconds_per_step: wall time, writing included; None when no step was made.
        drift_mev_per_atom_per_ps: slope of a line fitted to the total energy; None with a thermostat.
        mean_temperature_k: over states.
        max_deviation_mev_per_atom: of the energy.
        max_deviation_step: where it was met.
        threshold_mev_per_atom: as set.
        steps_past_threshold: states past it.
        stopped_at_threshold: whether that ended the run.
    """

    first_step: int
    last_step: int
    seconds_per_step: float | None
    drift_mev_per_atom_per_ps: float | None
    mean_temperature_k: float
    max_deviation_mev_per_atom: float | None
    max_deviation_step: int | None
    threshold_mev_per_atom: float | None
    steps_past_threshold: int
    stopped_at_threshold: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run(
    atoms: Atoms,
    settings: Settings,
    trajectory: Trajectory | None = None,
    first_step: int | None = None,
    first_time: float = 0.0,
    on_state: Callable[[State], None] | None = None,
) -> Summary:
    """Integrate up to step `settings.steps`; the state begun from is watched and, where nothing is continued, written.

    Langevin dynamics without constraints holds the centre of mass fixed (ASE's FixCom is set on the atoms).

    Args:
        atoms: with velocities and a calculator; they move.
        settings: see there.
        trajectory: where frames go, None for nowhere.
        first_step: of the last frame of the trajectory, 0 included, to continue that run; None begins one.
        first_time: fs, at that step.
        on_state: called with every state.

    Raises:
        DataError: when nothing can move, or another run is writing to the trajectory.
        UnstableError: when an energy or force is not finite, or an atom would move absurdly far.
        OSError: when a frame cannot be written.
    """
    degrees_of_freedom(atoms)
    continued, first_step = first_step is not None, first_step or 0
    integrator = _integrator(atoms, settings, first_step)
    tally = Tally(settings.threshold)
    started = time.perf_counter()
    stopped = False
    step = first_step
    try:
        for made, _ in enumerate(integrator.irun(settings.steps - first_step)):
            step = first_step + made
            require_finite(atoms, step)
            state, past = _observe(atoms, step, first_time + made * settings.timestep, tally)
            if past and not settings.stop:
                assert state.deviation is not None
                tally.warn_once(f"step {step} ({state.time_fs:g} fs)", state.deviation)
            stopped = past and settings.stop
            last = stopped or step == settings.steps
            written = continued and made == 0
            if trajectory is not None and not written and (last or step % settings.every == 0):
                trajectory.hold()  # a run thought dead may be continued while it lives
                trajectory.append(frame(atoms, state))
            if made == 0:
                started = time.perf_counter()
            if on_state is not None:
                on_state(state)
            if stopped:
                break
            if not last:
                refuse_leaps(atoms, settings.timestep, step + 1)
    finally:
        if trajectory is not None:
            trajectory.release()
    return _summary(settings, tally, first_step, step, time.perf_counter() - started, stopped)


def frame(atoms: Atoms, state: State) -> Atoms:
    """A copy to write, with momenta, results and the figures of the state."""
    copy = atoms.copy()
    copy.set_constraint([c for c in atoms.constraints if not isinstance(c, FixCom)])
    figures = {name: getattr(state, name) for name in ("step", "time_fs", "temperature", "total_energy")}
    copy.info = electrons(atoms) | figures
    copy.info[OWN_RESULTS] = "md"
    if state.energy_std is not None:
        copy.info["energy_std"] = state.energy_std
    assert atoms.calc is not None
    results = {name: atoms.calc.results[name] for name in WRITTEN_RESULTS if name in atoms.calc.results}
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


class _StepNoise:
    """Gaussian noise that depends on the seed and the count of draws alone, so that a continued run draws the same.

    ASE's Langevin asks it twice a step.
    """

    def __init__(self, seed: int, draws: int) -> None:
        self.seed = seed
        self.draws = draws

    def standard_normal(self, size: tuple[int, ...]) -> np.ndarray:
        """The next array."""
        self.draws += 1
        return np.random.default_rng([self.seed, self.draws]).standard_normal(size)


def _integrator(atoms: Atoms, settings: Settings, first_step: int) -> MolecularDynamics:
    timestep = settings.timestep * units.fs
    if settings.thermostat is None:
        return VelocityVerlet(atoms, timestep)
    if not atoms.constraints:
        atoms.set_constraint(FixCom())
    return Langevin(
        atoms,
        timestep,
        temperature_K=settings.thermostat,
        friction=settings.friction / (1000 * units.fs),
        fixcm=False,
        rng=_StepNoise(settings.seed, 2 * first_step),
    )


def _observe(atoms: Atoms, step: int, time_fs: float, tally: Tally) -> tuple[State, bool]:
    """The state, and whether its deviation is past the threshold."""
    n = len(atoms)
    energy = float(atoms.get_potential_energy())
    total = energy + float(atoms.get_kinetic_energy())
    warm = temperature(atoms)
    assert atoms.calc is not None
    std = atoms.calc.results.get("energy_std")
    past = tally.add(step, time_fs / 1000, warm, 1000 * total / n, None if std is None else 1000 * std / n)
    return State(step, time_fs, warm, energy, total, std, n, tally.trend.slope), past


def _summary(
    settings: Settings, tally: Tally, first_step: int, last_step: int, seconds: float, stopped: bool
) -> Summary:
    made = last_step - first_step
    return Summary(
        first_step=first_step,
        last_step=last_step,
        seconds_per_step=seconds / made if made else None,
        drift_mev_per_atom_per_ps=tally.trend.slope if settings.thermostat is None else None,
        mean_temperature_k=tally.mean_temperature,
        max_deviation_mev_per_atom=tally.max_deviation,
        max_deviation_step=tally.max_deviation_step,
        threshold_mev_per_atom=tally.threshold,
        steps_past_threshold=tally.past,
        stopped_at_threshold=stopped,
    )
