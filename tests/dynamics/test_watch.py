from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from mekrr.dynamics import Settings, UnstableError, default_threshold
from mekrr.dynamics.watch import Tally, Trend, refuse_leaps, require_finite
from mekrr.potential.held_out import HeldOutErrors
from mekrr.potential.record import RefinementRecord


class Broken(Calculator):
    """Gives what it is told to."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": self.parameters["energy"], "forces": np.full((len(atoms), 3), 0.0)}
        self.results["forces"][2] = self.parameters["force"]


def broken(energy=0.0, force=0.0):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Broken(energy=energy, force=force)
    return atoms


def test_what_is_not_finite_is_named():
    require_finite(broken(), 7)
    with pytest.raises(UnstableError, match=r"step 7: the force on atom 2 \(Cu\) is not finite"):
        require_finite(broken(force=np.nan), 7)
    with pytest.raises(UnstableError, match="step 7: the energy is inf"):
        require_finite(broken(energy=np.inf), 7)


def test_leaps_are_refused_before_they_are_made():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.set_velocities(np.array([[0, 0, 0], [0, 0, 0.25], [0, 0, 0], [0, 0, 0]]) / units.fs)
    refuse_leaps(atoms, 1.0, 4)
    with pytest.raises(UnstableError, match=r"step 4: atom 1 \(Cu\) would move 0\.50 Angstrom in 2 fs"):
        refuse_leaps(atoms, 2.0, 4)
    with pytest.raises(UnstableError, match="would move"):
        refuse_leaps(broken(force=1e4), 1.0, 4)
    with pytest.raises(UnstableError, match="would move nan"):
        refuse_leaps(broken(force=np.nan), 1.0, 4)


def test_the_trend_is_the_least_squares_line():
    x, y = np.random.default_rng(0).normal(size=(2, 50)) + 1e5
    trend = Trend()
    assert trend.slope is None
    for point in zip(x, y, strict=True):
        trend.add(*point)
    assert trend.slope == pytest.approx(np.polyfit(x - 1e5, y - 1e5, 1)[0], rel=1e-6)


def test_the_tally_counts_what_is_past_the_threshold():
    tally = Tally(threshold=2.0)
    past = [tally.add(step, step / 1000, 300 + step, 0.0, d) for step, d in enumerate((1.0, 2.5, 2.0, 3.0, None))]
    assert past == [False, True, False, True, False]
    assert (tally.past, tally.max_deviation, tally.max_deviation_step) == (2, 3.0, 3)
    assert tally.mean_temperature == pytest.approx(302)
    assert not Tally(None).add(0, 0.0, 0.0, 0.0, 1e9)


def test_the_default_threshold_follows_from_leave_one_out(potential):
    record = potential.fitted_.record

    def median_of(value):
        return replace(record, leave_one_out=replace(record.leave_one_out, median_absolute_mev_per_atom=value))

    assert default_threshold(median_of(1.0)) == pytest.approx(4.4478)
    for value in (0.0, float("nan")):
        with pytest.raises(ValueError, match="--threshold"):
            default_threshold(median_of(value))


def test_of_a_refined_network_it_follows_from_structures_held_out(potential):
    """Leave-one-out is that of the kernel potential before."""
    refined = RefinementRecord(1e-3, 1.0, (), 5, HeldOutErrors(9.0, 2.0, None))
    record = replace(potential.fitted_.record, refinement=refined)
    assert default_threshold(record) == pytest.approx(3 * 1.25331 * 2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timestep": -1.0}, "timestep must be positive, in fs; received -1.0"),
        ({"timestep": float("nan")}, "timestep"),
        ({"steps": 0}, "number of steps"),
        ({"every": 0}, "interval of frames"),
        ({"friction": 0.0}, "friction"),
        ({"thermostat": -1.0}, "temperature"),
        ({"threshold": -2.0}, "threshold"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{"steps": 10, **wrong})
