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
from mekrr.dynamics.stability import refuse_leaps, require_finite
from mekrr.dynamics.start import degrees_of_freedom, temperature
from mekrr.dynamics.trajectory import Trajectory
from mekrr.dynamics.watch import Watch
from mekrr.typing import Float, ndarray

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
        forces: eV/Angstrom, without those of constraints.
        drift: of the total energy so far, meV/atom/ps; None at first.
    """

    step: int
    time_fs: float
    temperature: float
    energy: float
    total_energy: float
    energy_std: float | None
    forces: Float[ndarray, "atoms 3"]
    drift: float | None = None

    @property
    def deviation(self) -> float | None:
        """Deviation of the energy, meV/atom."""
        return None if self.energy_std is None else 1000 * self.energy_std / len(self.forces)


@dataclass(frozen=True)
class Summary:
    """What came of a run; figures are over the states of this process, the first one included.

    Attributes:
        first_step: where this process began.
        last_step: where it ended.
        seconds_per_step: wall time, writing included; None when no step was made.
        drift_mev_per_atom_per_ps: slope of a line fitted to the total energy; None with a thermostat.
        mean_temperature_k: over states.
    """

    first_step: int
    last_step: int
    seconds_per_step: float | None
    drift_mev_per_atom_per_ps: float | None
    mean_temperature_k: float

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
    watch: Watch | None = None,
) -> Summary:
    """Integrate up to step `settings.steps`; the state begun from is watched and, where nothing is continued, written.

    A run that the watch ends has its last state written too.

    Langevin dynamics without constraints holds the centre of mass fixed (ASE's FixCom is set on the atoms).

    Args:
        atoms: with velocities and a calculator; they move.
        settings: see there.
        trajectory: where frames go, None for nowhere.
        first_step: of the last frame of the trajectory, 0 included, to continue that run; None begins one.
        first_time: fs, at that step.
        on_state: called with every state.
        watch: sees every state, by the calculator's "energy_std"; None for none.

    Raises:
        DataError: when nothing can move, or another run is writing to the trajectory.
        UnstableError: when an energy or force is not finite, or an atom would move absurdly far.
        OSError: when a frame cannot be written.
    """
    degrees_of_freedom(atoms)
    continued, first_step = first_step is not None, first_step or 0
    integrator = _integrator(atoms, settings, first_step)
    trend, warm = Trend(), 0.0
    started = time.perf_counter()
    step = first_step
    try:
        for made, _ in enumerate(integrator.irun(settings.steps - first_step)):
            step = first_step + made
            require_finite(atoms, step)
            state = _observe(atoms, step, first_time + made * settings.timestep, trend)
            warm += (state.temperature - warm) / trend.n
            # what a continued run begins from was seen before; one that is to stop there stops there again
            seen = continued and made == 0 and watch is not None and not watch.stop
            stopped = watch is not None and not seen and watch.see(atoms, state, step)
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
    made = step - first_step
    return Summary(
        first_step=first_step,
        last_step=step,
        seconds_per_step=(time.perf_counter() - started) / made if made else None,
        drift_mev_per_atom_per_ps=trend.slope if settings.thermostat is None else None,
        mean_temperature_k=warm,
    )


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


class Trend:
    """Slope of a straight line fitted by least squares to points that come one by one; no point is kept."""

    def __init__(self) -> None:
        self.n = 0
        self._mean_x = self._mean_y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one more point (Welford's update of the moments)."""
        self.n += 1
        dx = x - self._mean_x
        self._mean_x += dx / self.n
        self._mean_y += (y - self._mean_y) / self.n
        self._xx += dx * (x - self._mean_x)
        self._xy += dx * (y - self._mean_y)

    @property
    def slope(self) -> float | None:
        """None before there are two points."""
        return self._xy / self._xx if self._xx > 0 else None


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


def _observe(atoms: Atoms, step: int, time_fs: float, trend: Trend) -> State:
    energy = float(atoms.get_potential_energy())
    total = energy + float(atoms.get_kinetic_energy())
    trend.add(time_fs / 1000, 1000 * total / len(atoms))
    assert atoms.calc is not None
    std = atoms.calc.results.get("energy_std")
    forces = atoms.get_forces(apply_constraint=False)
    return State(step, time_fs, temperature(atoms), energy, total, std, forces, trend.slope)
