import warnings

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCom

from mekrr.dynamics import (
    Settings,
    Trajectory,
    UnstableError,
    Watch,
    WatchOptions,
    continue_from,
    draw_velocities,
    run,
)
from mekrr.dynamics.run import Trend
from mekrr.errors import DataError
from mekrr.files import claimed
from mekrr.potential import MekrrWarning


class Watched(EMT):
    """Effective medium theory with a deviation that grows with the distance from the start."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, ["energy", "forces"], system_changes)
        if not hasattr(self, "origin"):
            self.origin = atoms.positions.copy()
        self.results["energy_std"] = float(np.abs(atoms.positions - self.origin).max())


class Springs(Calculator):
    """Every atom on a spring of its own: what it gives follows from the positions alone, to the last bit.

    Of effective medium theory that cannot be said: its neighbour list remembers where the atoms were.
    """

    implemented_properties = ["energy", "forces", "energy_std"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = atoms.positions - bulk("Cu", cubic=True).repeat(2).positions
        self.results = {"energy": float((away**2).sum()), "forces": -2 * away, "energy_std": float(away.max())}


def moving(temperature=300, fixed=(), repeat=2, calculator=Watched):
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    atoms.set_constraint([FixAtoms(list(fixed))] if fixed else [])
    draw_velocities(atoms, temperature, seed=1)
    atoms.calc = calculator()
    return atoms


def test_constant_energy_is_conserved_and_frames_are_complete(tmp_path):
    states = []
    atoms = moving()
    summary = run(
        atoms, Settings(steps=205, timestep=1.0, every=50), Trajectory(tmp_path / "r.xyz"), on_state=states.append
    )
    assert abs(summary.drift_mev_per_atom_per_ps) < 0.5
    assert np.ptp([s.total_energy for s in states]) < 0.02 * np.ptp([s.energy for s in states])
    frames = ase.io.read(tmp_path / "r.xyz", ":")
    assert [f.info["step"] for f in frames] == [0, 50, 100, 150, 200, 205]
    last = frames[-1]
    assert last.info["time_fs"] == 205
    assert last.info["energy_std"] == pytest.approx(atoms.calc.results["energy_std"])
    assert last.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(last.get_forces(), atoms.get_forces(), atol=1e-7)
    np.testing.assert_allclose(last.get_momenta(), atoms.get_momenta(), atol=1e-7)
    assert last.info["total_energy"] == pytest.approx(last.get_total_energy(), abs=1e-6)
    assert summary.mean_temperature_k == pytest.approx(np.mean([s.temperature for s in states]))


def test_a_run_writes_nothing_to_a_file_that_another_writes_to(tmp_path):
    other = Trajectory(tmp_path / "r.xyz")
    other.hold()
    with pytest.raises(DataError, match="another run is writing to it"):
        run(moving(), Settings(steps=2), Trajectory(other.path))
    assert other.path.read_bytes() == b""
    other.release()
    mine = Trajectory(other.path)
    held = []
    run(moving(), Settings(steps=2, every=1), mine, on_state=lambda state: held.append(claimed(mine.path) is None))
    assert held == [True] * 3
    assert claimed(mine.path) is not None  # let go at the end


def test_fixed_atoms_do_not_move_and_stay_marked(tmp_path):
    atoms = moving(fixed=range(8))
    before = atoms.positions.copy()
    run(atoms, Settings(steps=20, thermostat=300), Trajectory(tmp_path / "r.xyz"))
    np.testing.assert_array_equal(atoms.positions[:8], before[:8])
    assert (atoms.positions[8:] != before[8:]).all()
    last = ase.io.read(tmp_path / "r.xyz")
    np.testing.assert_array_equal(last.constraints[0].index, range(8))
    assert np.abs(last.get_forces(apply_constraint=False)[:8]).max() > 1e-3


def test_the_thermostat_reaches_its_temperature():
    atoms = moving(temperature=10)
    summary = run(atoms, Settings(steps=60, timestep=2.0, thermostat=500, friction=100))
    assert summary.drift_mev_per_atom_per_ps is None
    states = []
    run(atoms, Settings(steps=200, timestep=2.0, thermostat=500, friction=100), on_state=states.append)
    assert np.mean([s.temperature for s in states]) == pytest.approx(500, rel=0.13)
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-6)
    assert isinstance(atoms.constraints[0], FixCom)


@pytest.mark.parametrize("thermostat", [None, 300.0])
@pytest.mark.parametrize("fixed", [(), (0, 1, 2)])
def test_a_continued_run_equals_one_that_was_not_interrupted(tmp_path, thermostat, fixed):
    settings = {"timestep": 1.0, "every": 7, "thermostat": thermostat, "friction": 50.0}
    whole = moving(fixed=fixed)
    run(whole, Settings(steps=40, **settings), Trajectory(tmp_path / "whole.xyz"))
    broken = Trajectory(tmp_path / "broken.xyz")
    run(moving(fixed=fixed), Settings(steps=21, **settings), broken)
    broken.path.write_bytes(broken.path.read_bytes()[:-100])
    frame, cut = broken.recover()
    atoms = moving(fixed=fixed)
    step = continue_from(atoms, frame, broken.path)
    assert (step, cut > 0) == (14, True)
    summary = run(atoms, Settings(steps=40, **settings), broken, step, frame.info["time_fs"])
    assert (summary.first_step, summary.last_step) == (14, 40)
    both = [ase.io.read(path, ":") for path in (tmp_path / "whole.xyz", broken.path)]
    assert [f.info["step"] for f in both[1]] == [0, 7, 14, 21, 28, 35, 40]
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)
        np.testing.assert_allclose(a.get_momenta(), b.get_momenta(), atol=1e-5)
        assert a.info["time_fs"] == b.info["time_fs"]


@pytest.mark.parametrize("kept", [0, 1, 2, 5])
def test_whatever_frame_a_run_is_killed_after_the_file_is_the_same(tmp_path, kept):
    """The first frame too: step 0 was once written again by a run continued from it."""
    settings = Settings(steps=10, timestep=1.0, every=3, thermostat=300.0)
    whole, broken = Trajectory(tmp_path / "whole.xyz"), Trajectory(tmp_path / "broken.xyz")
    run(moving(calculator=Springs), settings, whole)
    lines = whole.path.read_text().splitlines(keepends=True)
    broken.path.write_text("".join(lines[: kept * (len(moving()) + 2) + 7]))
    frame, _ = broken.recover()
    atoms, step, time = moving(calculator=Springs), None, 0.0
    if frame is not None:
        step, time = continue_from(atoms, frame, broken.path), frame.info["time_fs"]
    run(atoms, settings, broken, step, time)
    assert [f.info["step"] for f in ase.io.read(broken.path, ":")] == [0, 3, 6, 9, 10]
    assert broken.path.read_bytes() == whole.path.read_bytes()


THRESHOLD = 1000 * 0.05 / 32  # meV/atom


def test_past_the_threshold_it_warns_once_counts_and_keeps_structures(tmp_path):
    states, watch = [], Watch(WatchOptions(THRESHOLD, label_to=str(tmp_path / "label.xyz"), label_every=7))
    with pytest.warns(MekrrWarning, match="past the threshold of 1.56") as caught:
        summary = run(moving(), Settings(steps=60, timestep=2.0), on_state=states.append, watch=watch)
    past = [s.step for s in states if s.deviation > THRESHOLD]
    assert len([w for w in caught if "threshold" in str(w.message)]) == 1
    assert f"step {past[0]}: " in str(caught[0].message)
    assert watch.figures.past == len(past) > 1
    assert summary.last_step == 60
    assert watch.figures.max_deviation == max(s.deviation for s in states)
    kept = ase.io.read(tmp_path / "label.xyz", ":")
    assert [frame.info["step"] for frame in kept][:2] == [past[0], min(step for step in past if step >= past[0] + 7)]
    of_its_step = next(s for s in states if s.step == past[0])
    assert kept[0].get_potential_energy() == pytest.approx(of_its_step.energy)
    np.testing.assert_allclose(kept[0].get_forces(), of_its_step.forces, atol=1e-7)


def test_past_the_threshold_it_stops_and_writes_the_frame(tmp_path):
    watch = Watch(WatchOptions(THRESHOLD, "stop"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = Settings(steps=60, timestep=2.0, every=1000)
        summary = run(moving(), settings, Trajectory(tmp_path / "r.xyz"), watch=watch)
    assert watch.stopped
    assert 0 < summary.last_step < 60
    frames = ase.io.read(tmp_path / "r.xyz", ":")
    assert [f.info["step"] for f in frames] == [0, summary.last_step]
    assert frames[-1].info["energy_std"] > 0.05


def test_what_a_continued_run_begins_from_is_not_counted_again(tmp_path):
    path = tmp_path / "r.xyz"
    with pytest.warns(MekrrWarning, match="past the threshold"):
        run(moving(), Settings(steps=4, every=1), Trajectory(path), watch=Watch(WatchOptions(1e-9)))
    atoms, frame = moving(), Trajectory(path).recover()[0]
    step = continue_from(atoms, frame, path)
    watch = Watch(WatchOptions(1e-9))
    with pytest.warns(MekrrWarning, match="step 5: "):
        run(atoms, Settings(steps=6, every=1), Trajectory(path), step, frame.info["time_fs"], watch=watch)
    assert watch.figures.past == 2
    atoms = moving()
    step = continue_from(atoms, frame, path)
    ended = Watch(WatchOptions(1e-9, "stop"))
    atoms.calc.origin = atoms.positions - 1.0
    assert run(atoms, Settings(steps=6), None, step, frame.info["time_fs"], watch=ended).last_step == 4


def test_the_trend_is_the_least_squares_line():
    x, y = np.random.default_rng(0).normal(size=(2, 50)) + 1e5
    trend = Trend()
    assert trend.slope is None
    for point in zip(x, y, strict=True):
        trend.add(*point)
    assert trend.slope == pytest.approx(np.polyfit(x - 1e5, y - 1e5, 1)[0], rel=1e-6)


def test_a_blow_up_stops_with_the_step_and_leaves_the_frames(tmp_path):
    atoms = moving()
    atoms.positions[0] = 0.8 * atoms.positions[1] + 0.2 * atoms.positions[0]
    with pytest.raises(UnstableError, match=r"step \d+: atom \d+ \(Cu\) would move"):
        run(atoms, Settings(steps=500, timestep=5.0, every=1), Trajectory(tmp_path / "r.xyz"))
    frames = ase.io.read(tmp_path / "r.xyz", ":")
    assert all(np.isfinite(f.positions).all() for f in frames)
