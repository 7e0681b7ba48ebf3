"""Deviations of runs, whoever integrates."""

import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from mekrr import read_structures
from mekrr.dynamics import UnstableError, Watch, WatchOptions, default_threshold
from mekrr.engines import Evaluator, Found
from mekrr.errors import DataError, MekrrWarning
from mekrr.potential import Wanted
from mekrr.potential.held_out import HeldOutErrors
from mekrr.potential.record import RefinementRecord

ATOMS = bulk("Cu", cubic=True)


def found(std, force=0.0):
    """Of four atoms; std in eV: 0.004 is 1 meV/atom."""
    return Found(-1.0, np.full((4, 3), force), np.zeros((3, 3)), np.full(4, -0.25), energy_std=std)


@pytest.fixture(scope="module")
def record(potential):
    return potential.fitted_.record


def test_states_past_the_threshold_are_counted_and_the_first_is_named(record):
    watch = Watch(WatchOptions(threshold=2.0), record)
    with pytest.warns(MekrrWarning, match=r"step 5: the deviation of the energy, 3 meV/atom, is past") as caught:
        stops = [watch.see(ATOMS, found(std), step) for step, std in ((0, 0.004), (5, 0.012), (6, 0.016), (7, None))]
    assert len(caught) == 1
    assert stops == [False] * 4
    assert watch.as_dict() == {
        "max_deviation_mev_per_atom": pytest.approx(4.0),
        "max_deviation_step": 6,
        "threshold_mev_per_atom": 2.0,
        "steps_past_threshold": 2,
        "structures_to_label": 0,
        "stopped_at_threshold": False,
    }
    assert watch.lines() == [
        "largest deviation of the energy: 4 meV/atom (step 6)",
        "2 steps past the threshold of 2 meV/atom",
    ]


def test_a_run_is_stopped_when_asked(record):
    watch = Watch(WatchOptions(threshold=2.0, on_threshold="stop"), record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not watch.see(ATOMS, found(0.004), 0)
        assert watch.see(ATOMS, found(0.012), 1)
    assert watch.stopped


@pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")
def test_structures_to_label_are_spaced_and_are_no_labels(record, tmp_path):
    path = tmp_path / "label.extxyz"
    watch = Watch(WatchOptions(threshold=2.0, label_to=str(path), label_every=10), record)
    for step in range(3, 28):
        watch.see(ATOMS, found(0.012 if step > 4 else 0.0), step)
    frames = ase.io.read(path, ":")
    assert [frame.info["step"] for frame in frames] == [5, 15, 25]
    assert frames[0].info["energy_std"] == pytest.approx(0.012)
    assert watch.n_written == 3
    assert f"wrote 3 structures to label to {path}" in watch.lines()
    with pytest.raises(DataError, match="no label"):
        read_structures(path)
    with pytest.raises(FileExistsError, match="choose another"):
        Watch(WatchOptions(threshold=2.0, label_to=str(path)), record)
    again = Watch(WatchOptions(threshold=2.0, label_to=str(path)), record, continued=True)
    again.see(ATOMS, found(0.012), 40)
    assert [frame.info["step"] for frame in ase.io.read(path, ":")] == [5, 15, 25, 40]


@pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")
def test_the_threshold_follows_from_the_training(record, potential, alloys):
    watch = Watch(WatchOptions(), record)
    assert watch.figures.threshold == pytest.approx(default_threshold(record))
    (one,) = Evaluator(potential, Wanted(energy_std=True))([alloys[30]])
    watch.see(alloys[30], one, 0)
    assert watch.figures.max_deviation == pytest.approx(1000 * one.energy_std / len(alloys[30]))


def test_none_watches_nothing(record):
    options = WatchOptions(threshold="none")
    watch = Watch(options, record)
    assert not options.deviations
    assert not watch.see(ATOMS, found(None), 0)
    assert watch.lines() == []


def test_forces_that_are_no_numbers_end_a_run(record):
    with pytest.raises(UnstableError, match="step 3: the force on atom 0"):
        Watch(WatchOptions(), record).see(ATOMS, found(0.0, force=np.nan), 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on_threshold": "halt"}, "warn or stop; received 'halt'"),
        ({"threshold": -1.0}, "positive, in meV/atom; received -1.0"),
        ({"threshold": float("nan")}, "received nan"),
        ({"threshold": "low"}, "a number, auto or none; received 'low'"),
        ({"label_every": 0, "label_to": "x.extxyz"}, "at least 1; received 0"),
        ({"label_every": 5}, "no effect without --label-to"),
        ({"threshold": "none", "on_threshold": "stop"}, "nothing to stop at"),
        ({"threshold": "none", "label_to": "x.extxyz"}, "nothing to stop at"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        WatchOptions(**wrong)


def test_the_file_to_label_is_extended_xyz(record):
    with pytest.raises(ValueError, match=r"\.extxyz"):
        Watch(WatchOptions(label_to="label.traj"), record)


def test_structures_to_label_keep_charge_and_spin(record, tmp_path):
    atoms = ATOMS.copy()
    atoms.info = {"charge": -1, "spin": 2, "forces_of_another_geometry": 1.0}
    path = tmp_path / "label.extxyz"
    with pytest.warns(MekrrWarning, match="past the threshold"):
        Watch(WatchOptions(threshold=2.0, label_to=str(path)), record).see(atoms, found(0.012), 4)
    kept = ase.io.read(path).info
    assert (kept["charge"], kept["spin"], kept["step"]) == (-1, 2, 4)
    assert "forces_of_another_geometry" not in kept


def test_without_a_record_the_threshold_is_a_number():
    assert Watch(WatchOptions(threshold=2.0)).figures.threshold == 2.0
    with pytest.raises(ValueError, match="give the potential's record, or a number"):
        Watch(WatchOptions())


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


def test_it_follows_deviations_that_were_multiplied(potential):
    plain = potential.fitted_
    wider = plain.with_deviations_times(2.0).with_deviations_times(1.5)
    assert default_threshold(wider.record) == pytest.approx(3.0 * default_threshold(plain.record))
    assert wider.model.energy_amplitude == pytest.approx(9.0 * plain.model.energy_amplitude)
