import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS

from mekrr.errors import DataError
from mekrr.learning import learn
from mekrr.learning.journal import read_labels, read_lines
from mekrr.learning.labels import Label
from mekrr.learning.relax import is_better

from .conftest import CALCULATORS, FIXED


def test_it_ends_at_a_minimum_of_the_calculator_over_a_cap_and_a_continuation(cluster, emt, tmp_path, monkeypatch):
    monkeypatch.setenv("MEKRR_COUNT", str(tmp_path / "count"))
    folder = tmp_path / "run"
    words = {"folder": folder, "calculator": emt, "fmax": 0.03, **FIXED}
    ended = list(learn("relax", cluster, labels=2, **words))[-1]
    assert (ended.kind, len(read_labels(folder))) == ("stopped", 2)
    assert "larger --labels" in ended.text
    found = list(learn("relax", cluster, resume=True, **words))
    assert found[-1].kind == "converged"
    (end,) = found[-1].structures
    check = end.copy()
    check.calc = EMT()
    assert np.linalg.norm(check.get_forces(), axis=1).max() < 0.03
    np.testing.assert_array_equal(check.positions[0], cluster.positions[0])
    (written,) = ase.io.read(folder / "result.extxyz", ":")
    np.testing.assert_array_equal(written.positions, end.positions)
    _journal_is_sound(folder)
    labels = read_labels(folder)
    assert len((tmp_path / "count").read_text().splitlines()) == len(labels)
    plain = cluster.copy()
    plain.calc = EMT()
    optimiser = BFGS(plain, logfile=None)
    optimiser.run(0.03)
    assert len(labels) < optimiser.nsteps
    assert check.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=5e-3)
    for given, message in (
        ({"resume": False}, "go on with it by --resume"),
        ({"probes": 5}, r"other options of the fit \(--probes\)"),
    ):
        with pytest.raises((DataError, FileExistsError), match=message):
            learn("relax", cluster, **({"resume": True} | words | given))
    cluster.positions += 0.01
    with pytest.raises(DataError, match="another START"):
        learn("relax", cluster, resume=True, **words)


def _journal_is_sound(folder):
    """Every label is there with its energy and with what was predicted before it."""
    labels, lines = read_labels(folder), read_lines(folder)
    told = [line for line in lines if line["kind"] == "labelled"]
    assert [line["number"] for line in told] == [label.number for label in labels]
    for label, line in zip(labels, told, strict=True):
        check = label.frame.copy()
        check.calc = EMT()
        assert label.energy == pytest.approx(check.get_potential_energy(), abs=1e-9)
        assert line["force_error_mev_per_angstrom"] == pytest.approx(1000 * label.force_error)
    assert told[-1]["force_error_mev_per_angstrom"] < 0.2 * told[0]["force_error_mev_per_angstrom"]


def _label(cluster, energy, force, foretold=None):
    """With this force on a free atom, and 9 eV/Angstrom on the fixed one, which does not count."""
    frame = cluster.copy()
    frame.info = {"label": 0}
    forces = np.zeros((4, 3))
    forces[0], forces[1, 2] = 9.0, force
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    if foretold is not None:
        frame.info["before_energy"] = foretold[0]
        frame.arrays["before_forces"] = np.zeros((4, 3))
        frame.arrays["before_forces"][1, 2] = foretold[1]
    return Label.of(frame, "labels", 0)


@pytest.mark.parametrize(
    ("lower", "force", "expected"),
    [(0.02, 0.5, True), (0.001, 0.05, True), (0.001, 0.2, False), (-0.001, 0.05, True), (-0.02, 0.05, False)],
)
def test_the_better_label_lies_lower_or_as_low_with_smaller_forces(cluster, lower, force, expected):
    assert is_better(_label(cluster, -lower, force), _label(cluster, 0.0, 0.1), cluster) is expected


@pytest.mark.parametrize(
    ("lower", "force", "foretold", "expected"),
    [
        (0.002, 0.2, (-0.003, 0.17), True),
        (0.002, 0.2, (-0.005, 0.17), False),
        (0.002, 0.2, (-0.003, 0.12), False),
        (0.002, 0.2, (0.001, 0.17), False),
        (-0.002, 0.2, (-0.003, 0.17), False),
    ],
)
def test_a_small_gain_counts_where_energy_and_forces_came_out_as_foretold(cluster, lower, force, foretold, expected):
    """A molecule that slides over a flat surface: forces grow from 0.1 to 0.2 eV/Angstrom and it lies a bit lower."""
    assert is_better(_label(cluster, -lower, force, foretold), _label(cluster, 0.0, 0.1), cluster) is expected


def test_labels_that_contradict_each_other_are_remarked_upon_once(cluster, tmp_path):
    """Forces of EMT with noise of 0.1 eV/Angstrom never come below a limit of 0.02, wherever atoms go."""
    words = {"folder": tmp_path, "calculator": f"{CALCULATORS}:noisy", "fmax": 0.02, "labels": 14, **FIXED}
    found = list(learn("relax", cluster, **words))
    said = [event.text for event in found if event.kind == "remark" and "noise of the calculator" in event.text]
    assert len(said) == 1
    assert "above the limit of 0.02" in said[0]


def test_a_calculator_that_returns_no_numbers_ends_the_run_with_a_sentence(cluster, tmp_path):
    running = learn("relax", cluster, folder=tmp_path, calculator=f"{CALCULATORS}:nan", **FIXED)
    found = [next(running)]
    with pytest.raises(DataError, match="another run of mekrr learn is going on"):
        learn("relax", cluster, folder=tmp_path, calculator=f"{CALCULATORS}:nan", **FIXED)
    found += list(running)
    assert found[-1].kind == "stopped"
    assert "a force on atom 0 that is not finite" in found[-1].text
    assert read_labels(tmp_path) == []
    assert [line["kind"] for line in read_lines(tmp_path)].count("label-failed") == 2


@pytest.mark.slow
def test_a_crash_is_an_event_and_not_the_end(cluster, tmp_path):
    words = {"folder": tmp_path, "calculator": f"{CALCULATORS}:once", **FIXED}
    found = list(learn("relax", cluster, labels=1, **words))
    assert [event.kind for event in found].count("label-failed") == 1
    assert len(read_labels(tmp_path)) == 1


def test_what_cannot_be_done_is_refused_before_anything_runs(cluster, emt, tmp_path):
    words = {"folder": tmp_path / "run", "calculator": emt}
    for given, message in (
        ({"fmax": -1.0}, "fmax must be positive"),
        ({"labels": 0}, "labels must be at least 1"),
        ({"images": 3}, "no option 'images'"),
        ({"solver": "exact"}, "needs forces"),
        ({"end": cluster}, "relax has no end"),
    ):
        with pytest.raises(ValueError, match=message):
            learn("relax", cluster, **words, **given)
    with pytest.raises(ValueError, match="unknown task"):
        learn("melt", cluster, **words)
    with pytest.raises(ValueError, match="a refined network has none; leave it out"):
        learn("relax", cluster, folder=tmp_path / "refined", calculator=None, refine=2)
    assert not (tmp_path / "run").exists()
