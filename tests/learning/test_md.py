import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from mekrr import Calculator, KernelPotential
from mekrr.dynamics import draw_velocities
from mekrr.learning import learn
from mekrr.learning.journal import read_labels, read_lines, whole_frames

from .conftest import CALCULATORS, FIXED


@pytest.fixture
def words(emt, tmp_path):
    return {"folder": tmp_path / "run", "calculator": emt, "timestep": 2.0, **FIXED}


@pytest.mark.slow
def test_walkers_reach_their_end_and_errors_fall(cluster, words):
    """How many labels, and where, hangs on the last bits of forces at 1000 K; ends are known better than the way."""
    found = list(learn("md", cluster, steps=40, walkers=4, temperature="1000:1100", **words))
    assert found[-1].kind == "converged", found[-1].text
    folder, labels = words["folder"], read_labels(words["folder"])
    assert len(labels) >= 3  # that many make a potential; how many more hangs on the machine
    potential, at_the_ends = KernelPotential.load(folder / "model.safetensors"), []
    for k, last in enumerate(found[-1].structures):
        frames = whole_frames(folder / f"walker-{k}.extxyz")
        steps = [frame.info["step"] for frame in frames]
        assert (steps[-1], steps == sorted(set(steps))) == (40, True)
        np.testing.assert_allclose(frames[-1].positions, last.positions, atol=1e-8)
        np.testing.assert_array_equal(last.positions[0], cluster.positions[0])
        check = last.copy()
        check.calc = EMT()
        expected = check.get_forces(apply_constraint=False)
        check.calc = Calculator(potential)
        at_the_ends.append(np.sqrt(np.square(check.get_forces(apply_constraint=False) - expected).mean()))
    assert np.mean(at_the_ends) < np.mean([label.force_error for label in labels])
    waited = [line for line in read_lines(folder) if "past the threshold" in line["text"]]
    assert waited
    assert all(line["deviation_mev_per_angstrom"] > line["threshold_mev_per_angstrom"] for line in waited)


def test_one_walker_reaches_its_end_and_is_predicted_better(cluster, words):
    found = list(learn("md", cluster, steps=50, temperature="1200", **words))
    assert found[-1].kind == "converged", found[-1].text
    labels, frames = read_labels(words["folder"]), whole_frames(words["folder"] / "walker-0.extxyz")
    assert frames[-1].info["step"] == 50
    frames[-1].calc = EMT()
    error = frames[-1].get_potential_energy() - frames[-1].info["predicted_energy"]
    assert abs(error) < 0.05
    assert labels[-1].force_error < labels[0].force_error or len(labels) == 3


def test_a_quiet_run_is_looked_at_at_steps_that_double(cluster, words, monkeypatch):
    """Small deviations by three labels are no reason to go on for ever."""
    monkeypatch.setattr("mekrr.learning.md.SMALLEST_SHARE", 1e6)  # no deviation is past that
    monkeypatch.setattr("mekrr.learning.md.LARGEST_SHARE", 1e6)
    found = list(learn("md", cluster, steps=200, temperature="300", **words))
    assert found[-1].kind == "converged", found[-1].text
    steps = [label.frame.info["step"] for label in read_labels(words["folder"])]
    assert steps == [0, 20, 40, 80, 160]


def test_a_look_that_fails_is_not_asked_for_again_and_again(cluster, words, monkeypatch):
    """At constant energy the walker would come to the same structure again."""
    monkeypatch.setattr("mekrr.learning.md.SMALLEST_SHARE", 1e6)
    monkeypatch.setattr("mekrr.learning.md.LARGEST_SHARE", 1e6)
    words |= {"calculator": f"{CALCULATORS}:fourth", "ensemble": "nve"}
    found = list(learn("md", cluster, steps=200, temperature="300", **words))
    assert found[-1].kind == "converged", found[-1].text
    assert [label.frame.info["step"] for label in read_labels(words["folder"])] == [0, 20, 40, 160]


def test_the_cap_ends_a_run_and_a_larger_one_gives_the_same_as_no_cap(cluster, checkpoint, words, tmp_path):
    """On a small network with random weights: what is tested is where the run stands after a continuation."""
    words |= {"backbone": f"schnet:{checkpoint}", "trust_checkpoint": True, "layers": "auto", "prior": "composition"}
    words |= {"timestep": 1.0, "temperature": "600"}
    short = words | {"folder": tmp_path / "short"}
    assert list(learn("md", cluster, steps=40, labels=2, **short))[-1].kind == "stopped"
    list(learn("md", cluster, steps=40, resume=True, **short))
    list(learn("md", cluster, steps=40, **words))
    first, second = (read_labels(folder) for folder in (short["folder"], words["folder"]))
    assert [one.frame.positions.tolist() for one in first] == [one.frame.positions.tolist() for one in second]
    trajectories = [(folder / "walker-0.extxyz").read_bytes() for folder in (short["folder"], words["folder"])]
    assert trajectories[0] == trajectories[1]


def test_what_failed_is_no_label_of_those_allowed(cluster, words):
    """The first of three structures asked for at once has no label; the second has the one that is allowed."""
    words |= {"calculator": f"{CALCULATORS}:once"}
    end = list(learn("md", cluster, steps=40, labels=1, **words))[-1]
    assert end.text.startswith("1 label, as many as allowed")
    assert [label.number for label in read_labels(words["folder"])] == [1]


@pytest.mark.slow
def test_constant_pressure_moves_the_cell(words):
    atoms = bulk("Cu", cubic=True, a=3.5)
    atoms.numbers[1] = 79
    end = list(learn("md", atoms, steps=100, ensemble="npt", **words))[-1]
    assert end.kind == "converged", end.text
    assert end.structures[0].cell.volume > 1.02 * atoms.cell.volume
    assert all(label.structure.stress is not None for label in read_labels(words["folder"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": "cold"}, "--temperature is a number of K or T1:T2"),
        ({"temperature": "300:600", "ensemble": "nve"}, "needs a thermostat"),
        ({"pressure": 1.0}, "--pressure belongs to --ensemble npt"),
        ({"friction": 1.0, "ensemble": "nve"}, "--friction belongs to a thermostat"),
        ({"batch": 2}, "between 1 and the 1 --walkers"),
        ({"ensemble": "npt"}, "repeats along all axes"),
        ({"ensemble": "nph"}, "is one of nve, nvt, npt"),
    ],
)
def test_what_makes_no_sense_is_refused(cluster, words, given, message):
    with pytest.raises(ValueError, match=message):
        learn("md", cluster, **(words | given))
    assert not words["folder"].exists()


def test_a_temperature_that_is_not_used_is_told(cluster, words):
    draw_velocities(cluster, 50, 0)
    for given, expected in (({"ensemble": "nve"}, 1), ({"ensemble": "nvt", "folder": words["folder"] / "nvt"}, 0)):
        found = list(learn("md", cluster, temperature="900", labels=1, **(words | given)))
        said = [event.text for event in found if event.kind == "remark" and "--temperature is not used" in event.text]
        assert len(said) == expected


def test_no_structure_lies_beyond_the_last_step(cluster, words):
    ended = list(learn("md", cluster, steps=1, **words))[-1]
    assert (ended.kind, "end of 1 steps before there were the 3 labels" in ended.text) == ("stopped", True)
    assert read_labels(words["folder"]) == []


def test_after_a_failure_a_walker_does_not_come_to_the_same_structure(cluster, words, tmp_path, monkeypatch):
    monkeypatch.setenv("MEKRR_COUNT", str(tmp_path / "count"))
    monkeypatch.setenv("MEKRR_LICENCES", "3")
    words["calculator"] = f"{CALCULATORS}:unlicensed"
    ended = list(learn("md", cluster, steps=400, temperature="3000", **words))[-1]
    assert "3 structures in a row could not be labelled" in ended.text
    energies = (tmp_path / "count").read_text().split()
    assert len(set(energies)) == len(energies) == 6
